"""What is timed: a model on a system, from one start state.

Models that are not shipped at the size of the paper's are timed with fresh
weights: what a step costs does not depend on their values.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openmm import app, unit

from openmm_mlbench.data.datasets import load_dataset, system_of
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import MLBenchError, ModelError
from openmm_mlbench.export.archive import save_archive
from openmm_mlbench.export.card import Card, Claims, TrainedOn
from openmm_mlbench.export.compiled import source_digest
from openmm_mlbench.models.registry import ARCHITECTURES, count_parameters
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.momenta import draw_velocities
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.trainer import new_force_field
from openmm_mlbench.units import NM_PER_ANGSTROM

# Shipped frames of each system that is timed.
SYSTEMS = {"ethanol": "ethanol-gfn2", "aspirin": "aspirin-gfn2", "water": "water-1k", "lips": "lips-fm"}
# The paper's networks where they differ from those for MD17 molecules, which are the defaults
# (configuration files of kyonofx/MDsim @61ca2cf).
PAPER_SIZES: dict[tuple[str, str], dict[str, Any]] = {
    **{("schnet", system): {"cutoff": 6.0} for system in ("water", "lips")},
    # Neighbours by element in the order H, O.
    ("deeppot-se", "water"): {"axis": 16, "cutoff_start": 0.5, "selection": (92, 46)},
    ("forcenet", "water"): {"hidden": 128, "decoder": 128},
    ("nequip", "water"): {"l_max": 2, "layers": 6, "radial_layers": 3, "cutoff": 6.0},
    ("nequip", "lips"): {"l_max": 2, "layers": 6, "radial_layers": 3, "cutoff": 5.0},
}
TIMESTEP_FS = 0.5
# Forces of fresh weights are noise of the right size: short steps keep a molecule together, and cost the same.
FRESH_TIMESTEP_FS = 0.01


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model on a system.

    Args:
        model: id of a shipped model, path, or architecture.
        system: a key of ``SYSTEMS``.
        weights: ``trained``, or ``fresh`` at the paper's size.
        potential: the model.
        topology: of OpenMM; with a box if periodic.
        positions_nm: (n_atoms, 3).
        velocities_nm_ps: (n_atoms, 3), at the protocol's temperature.
        box_nm: (3, 3), or None.
        timestep_fs: of every loop.
    """

    model: str
    system: str
    weights: str
    potential: Potential
    topology: Any
    positions_nm: NDArray[np.float64]
    velocities_nm_ps: NDArray[np.float64]
    box_nm: NDArray[np.float64] | None
    timestep_fs: float

    @property
    def atomic_numbers(self) -> list[int]:
        """(n_atoms,)."""
        return [atom.element.atomic_number for atom in self.topology.atoms()]


def make_case(model: str, system: str | None, folder: Path) -> Case:
    """A case of a shipped model, a file, or an architecture with fresh weights at the paper's size.

    Args:
        model: id, path, or name of an architecture.
        system: a key of ``SYSTEMS``; the model's own if None, ethanol for fresh weights.
        folder: where archives of fresh weights are kept; an archive that is there is taken, so that what was compiled
            for it is found again (no two archives are equal byte by byte).

    Raises:
        ModelError: no such model or system.
    """
    fresh = model in ARCHITECTURES
    path: str | Path = model
    if fresh:
        system = system or "ethanol"
        sizes = PAPER_SIZES.get((model, system), {})
        made_of = json.dumps([source_digest(), sizes], sort_keys=True)
        path = folder / f"{model}-{system}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.pt"
        if not path.is_file():
            write_fresh_archive(path, model, frames_of(system), sizes)
    potential = Potential.load(path)
    system = system or _own_system(potential)
    frames = frames_of(system)
    topology, box_nm = _topology(system, frames)
    masses = np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms()])
    temperature = load_protocol(system).temperature_K
    return Case(
        model=model,
        system=system,
        weights="fresh" if fresh else "trained",
        potential=potential,
        topology=topology,
        positions_nm=frames.positions[0].astype(np.float64) * NM_PER_ANGSTROM,
        velocities_nm_ps=draw_velocities(masses, temperature, np.random.default_rng(0)),
        box_nm=box_nm,
        timestep_fs=FRESH_TIMESTEP_FS if fresh else TIMESTEP_FS,
    )


def repeated_box(case: Case, times: int) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """Atomic numbers, positions (n, 3) and box (3, 3), nm, of a periodic case repeated along every lattice vector."""
    assert case.box_nm is not None
    places = np.stack(np.meshgrid(*[np.arange(times)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (case.positions_nm[None] + (places @ case.box_nm)[:, None]).reshape(-1, 3)
    return case.atomic_numbers * times**3, positions, times * case.box_nm


def frames_of(system: str) -> Frames:
    """Shipped frames of a system.

    Raises:
        ModelError: none of ``SYSTEMS``.
    """
    if system not in SYSTEMS:
        raise ModelError(f"system {system!r} is not timed; use one of {', '.join(SYSTEMS)}")
    return load_dataset(SYSTEMS[system])


def write_fresh_archive(path: Path, model: str, frames: Frames, hyperparameters: dict[str, Any]) -> None:
    """An archive of seeded fresh weights, with energy zero, scale and statistics of some frames."""
    some = frames.select(np.arange(min(20, frames.n_frames)))
    recipe = Recipe(model=model, hyperparameters=hyperparameters)
    field = new_force_field(recipe, some)
    network = field.network
    numbers = field.atomic_numbers.tolist()
    card = Card(
        model=model,
        hyperparameters=hyperparameters,
        n_parameters=count_parameters(network),
        species=sorted(set(numbers)),
        example_atomic_numbers=numbers,
        cutoff_A=network.cutoff,
        dtype="float32",
        periodic=frames.cells is not None,
        claims=Claims(
            conservative=not network.direct,
            rotation=network.rotation,
            parity=network.parity,
            zero_net_force=not network.direct,
        ),
        remove_mean_force=False,
        trained_on=TrainedOn(
            dataset=frames.name,
            dataset_hash=frames.content_hash(),
            split_hash="",
            split_seed=0,
            n_train=0,
            n_validation=0,
            level_of_theory="none: fresh weights",
            source="none: fresh weights",
            constraints="none",
        ),
    )
    save_archive(field, card, path)


def _own_system(potential: Potential) -> str:
    dataset = potential.card.trained_on.dataset
    try:
        system = system_of(dataset)
    except MLBenchError:
        system = ""
    if system not in SYSTEMS:
        raise ModelError(
            f"{potential.id} was trained on {dataset!r}, which is no system that is timed; give --system, one of "
            f"{', '.join(SYSTEMS)}"
        )
    return system


def _topology(system: str, frames: Frames) -> tuple[Any, NDArray[np.float64] | None]:
    """Topology of OpenMM with the box of the first frame, and that box in nm."""
    topology = app.PDBFile(str(load_protocol(system).structure_path)).topology
    if frames.cells is None:
        topology.setPeriodicBoxVectors(None)
        return topology, None
    box = frames.cells[0].astype(np.float64) * NM_PER_ANGSTROM
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    return topology, box
