"""The native backend beside the real PLUMED; skipped where openmm-plumed is not installed."""

import math
import shutil
import subprocess

import numpy as np
import openmm
import pytest

from openmm_mlbench.metrics.free_energy import read_fes, read_hills, surface_from_hills
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.metadynamics.bias import plumed_available
from openmm_mlbench.simulation.metadynamics.hills import (
    HILLS,
    BiasGrid,
    durable_sizes,
    hill_line,
    hills_header,
    parse_hill,
)
from openmm_mlbench.simulation.metadynamics.native import NativeBias
from openmm_mlbench.simulation.metadynamics.plumed import PlumedBias

needs_plumed = pytest.mark.skipif(
    not plumed_available(), reason="openmmplumed does not import; openmm-plumed comes from conda-forge"
)
needs_program = pytest.mark.skipif(
    shutil.which("plumed") is None, reason="the program plumed is not on the PATH; it comes with PLUMED"
)


def write_hills(folder, n_hills=400):
    """A well-tempered walk over all angles."""
    description = load_protocol("alanine-dipeptide").metadynamics
    generator = np.random.default_rng(2)
    grid, text, angles = BiasGrid(description), hills_header(description), np.zeros(2)
    for i in range(n_hills):
        angles = angles + 0.6 * generator.standard_normal(2)
        angles -= 2 * np.pi * np.rint(angles / (2 * np.pi))
        place = tuple((np.rint((angles + np.pi) / (2 * np.pi / 120)).astype(int) % 120).tolist())
        line = hill_line(description, float(i + 1), angles.tolist(), float(grid.values[place]))
        grid.add(parse_hill(line, description, folder))
        text += line
    (folder / HILLS).write_text(text)
    return grid


def place(a, b, c, dihedral):
    """The fourth atom of a chain with this dihedral angle, IUPAC's sign."""
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    third = np.cross(normal, along)
    bend = 2.0
    return c + 0.15 * (
        -math.cos(bend) * along + math.sin(bend) * (math.cos(dihedral) * third + math.sin(dihedral) * normal)
    )


def chain(phi, psi):
    """22 atoms, of which 4, 6, 8, 14, 16 have these angles; nm."""
    positions = np.arange(66, dtype=np.float64).reshape(22, 3) + 5.0
    a, b, c = np.array([0.0, 0.14, 0.0]), np.zeros(3), np.array([0.15, 0.02, 0.01])
    d = place(a, b, c, phi)
    positions[[4, 6, 8, 14, 16]] = a, b, c, d, place(b, c, d, psi)
    return positions


def context_of(bias):
    system = openmm.System()
    for _ in range(22):
        system.addParticle(12.0)
    bias.add_to(system)
    with bias.log():
        return openmm.Context(
            system, openmm.VerletIntegrator(0.002), openmm.Platform.getPlatformByName("Reference")
        )


@needs_plumed
def test_the_same_hills_give_the_same_bias(tmp_path):
    """Energies over a grid of angles that are no grid points, and forces."""
    protocol = load_protocol("alanine-dipeptide")
    for name in ("native", "plumed"):
        (tmp_path / name).mkdir()
        write_hills(tmp_path / name)
    sizes = durable_sizes(tmp_path / "native")
    native = NativeBias(protocol.metadynamics, 0.002, tmp_path / "native", [tmp_path / "native"], sizes)
    plumed = PlumedBias(protocol.metadynamics, protocol, tmp_path / "plumed", [tmp_path / "plumed"], sizes)
    contexts = [context_of(native), context_of(plumed)]
    energies, forces = [], []
    for phi in np.linspace(-3.13, 3.11, 24):
        for psi in np.linspace(-3.12, 3.14, 24):
            states = []
            for context in contexts:
                context.setPositions(chain(phi, psi))
                states.append(context.getState(energy=True, forces=True))
            energies.append([state.getPotentialEnergy()._value for state in states])
            forces.append([state.getForces(asNumpy=True)._value for state in states])
    energies, forces = np.array(energies), np.array(forces)
    print(
        "energy",
        np.abs(np.diff(energies)).max(),
        "of",
        np.ptp(energies),
        "force",
        np.abs(forces[:, 0] - forces[:, 1]).max(),
        "of",
        np.abs(forces).max(),
    )
    assert np.ptp(energies) > 10.0
    assert np.abs(energies[:, 0] - energies[:, 1]).max() < 1e-3
    # Per nm; kinks at the cutoff of each hill are smoothed differently.
    assert np.abs(forces[:, 0] - forces[:, 1]).max() < 1e-2 * np.abs(forces).max()


@needs_program
def test_sum_hills_reads_native_hills(tmp_path):
    write_hills(tmp_path)
    command = ["plumed", "sum_hills", "--hills", HILLS, "--mintozero"]
    command += ["--min", "-pi,-pi", "--max", "pi,pi", "--bin", "60,60"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    theirs = read_fes(tmp_path / "fes.dat").F
    ours = surface_from_hills(read_hills(tmp_path / HILLS), n_bins=60).F
    print("sum_hills", np.abs((ours - ours.min()) - (theirs - theirs.min())).max(), "of", np.ptp(ours))
    np.testing.assert_allclose(ours - ours.min(), theirs - theirs.min(), atol=1e-6)
