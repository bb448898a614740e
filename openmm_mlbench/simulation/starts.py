"""Start positions: frames of a data set, or the models of a PDB file."""

import hashlib
import io

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.cells import cell_heights, reduce_cell
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.data.whole import bond_tree, join_molecules
from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.seeds import choose_start_frames
from openmm_mlbench.units import ANGSTROM_PER_NM, NM_PER_ANGSTROM


def structure_frames(protocol: Protocol) -> Frames:
    """The models of the protocol's PDB file of start positions, as frames without labels.

    Raises:
        SimulationError: it is missing or unreadable, or has atoms without element.
    """
    from openmm import app, unit

    path = protocol.initial_path
    try:
        content = path.read_bytes()
        # As a text: OpenMM leaves a file open that it cannot read.
        structure = app.PDBFile(io.StringIO(content.decode()))
        positions_nm = np.stack(
            [
                structure.getPositions(asNumpy=True, frame=model).value_in_unit(unit.nanometer)
                for model in range(structure.getNumFrames())
            ]
        )
    except Exception as error:  # the parser raises whatever it meets
        raise SimulationError(
            f"{path}: not a readable PDB file ({error}); give the start positions of {protocol.name}"
        ) from error
    elements = [atom.element for atom in structure.topology.atoms()]
    if not elements or None in elements:
        raise SimulationError(f"{path}: has no atoms, or atoms without element; fill in columns 77-78")
    box = structure.topology.getPeriodicBoxVectors()
    cell_A = None if box is None else np.array(box.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
    return Frames(
        name=path.name,
        atomic_numbers=np.array([element.atomic_number for element in elements], dtype=np.int64),
        positions=positions_nm * ANGSTROM_PER_NM,
        energies=None,
        forces=None,
        cells=None if cell_A is None else np.repeat(cell_A[None], len(positions_nm), axis=0),
        frame_indices=np.arange(len(positions_nm), dtype=np.int64),
        interval_fs=None,
        constraints=protocol.constraints,
        level_of_theory="none: start positions",
        source=f"{path.name}, SHA-256 {hashlib.sha256(content).hexdigest()[:12]}",
    )


def choose_starts(protocol: Protocol, frames: Frames, n_replicas: int) -> NDArray[np.int64]:
    """Places of the start frames (n_replicas,): drawn at random, or model after model of a structure file.

    Raises:
        SimulationError: fewer frames than replicas, which would start alike.
    """
    if protocol.initial_positions == "structure":
        # Replicas of one start differ by their momenta.
        return np.arange(n_replicas, dtype=np.int64) % frames.n_frames
    if n_replicas > frames.n_frames:
        raise SimulationError(
            f"{n_replicas} replicas but only {frames.n_frames} start frames in {frames.name}; ask for fewer replicas"
        )
    return choose_start_frames(frames.n_frames, n_replicas, protocol.seed)


def start_configuration(
    frames: Frames, place: int, bonds: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions (n_atoms, 3) and box vectors (3, 3), nm, of a frame; both turned where OpenMM's form asks for it.

    Args:
        frames: of the system.
        place: which one.
        bonds: (n_bonds, 2) of the topology: molecules that the cell cuts are made whole along them, without
            which forces of bonds and the barostat would go wrong.

    Raises:
        SimulationError: the frame's cell has no volume.
    """
    positions_nm = frames.positions[place] * NM_PER_ANGSTROM
    if frames.cells is None:
        return positions_nm, None
    try:
        box_nm, positions_nm = reduce_cell(frames.cells[place] * NM_PER_ANGSTROM, positions_nm)
    except MLBenchError as error:
        raise SimulationError(f"{frames.name}, frame {place}: {error}") from error
    if bonds is not None and len(bonds):
        vectors = positions_nm[bonds[:, 1]] - positions_nm[bonds[:, 0]]
        if (np.linalg.norm(vectors, axis=1) > 0.4 * cell_heights(box_nm[None]).min()).any():
            tree = bond_tree(bonds, frames.n_atoms)
            positions_nm = join_molecules(positions_nm[None], box_nm[None], tree)[0]
    return positions_nm, box_nm
