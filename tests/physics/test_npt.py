"""The barostat: volumes of an ideal gas, and which atoms move together.

For N molecules without interactions p(V) ~ V^N exp(-P V / kT), so <V> = (N + 1) kT / P and
std(V) = sqrt(N + 1) kT / P.
"""

import dataclasses

import harmonic_ethanol as ethanol
import numpy as np
import openmm
import periodic_argon as argon
import pytest

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.simulation.platforms import choose_platform
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.task import create_system, read_structure
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

TEMPERATURE_K, PRESSURE_BAR = 120.0, 10.0
# 1 bar in kJ/mol/nm^3: 1e5 J/m^3 x 6.02214076e23 / 1e3 x 1e-27.
BAR = 0.0602214076
MEAN_A3 = 1000 * 28 * BOLTZMANN_KJMOL_K * TEMPERATURE_K / (PRESSURE_BAR * BAR)


def npt_protocol(folder, frames, **changes):
    argon.write_pdb(folder / "argon.pdb", frames)
    options = {
        "ensemble": "NPT",
        "pressure_bar": PRESSURE_BAR,
        "barostat_interval_steps": 4,
        "checkpoint_interval_ps": 15.0,
        "frame_interval_fs": 20.0,
    }
    return argon.protocol(folder / "argon.pdb", **(options | changes))


def test_volumes_of_an_ideal_gas(tmp_path, record_property):
    frames = argon.frames(MEAN_A3 ** (1 / 3) * np.eye(3))
    protocol = npt_protocol(tmp_path, frames)
    gas = argon.Argon(epsilon=0.0)
    statuses = run_protocol(protocol, gas, tmp_path / "run", start_frames=frames, replicas=2, length_ps=15.0)
    assert [status.state for status in statuses] == ["finished"] * 2
    logs = [ethanol.read_log(tmp_path / "run" / f"replica-{i}") for i in range(2)]
    volumes = np.array([log["volume_A3"][200:] for log in logs])
    blocks = np.concatenate([[block.mean() for block in np.array_split(row, 10)] for row in volumes])
    stderr = blocks.std(ddof=1) / np.sqrt(len(blocks))
    report = f"<V> {volumes.mean():.0f} +- {stderr:.0f} A^3, expected {MEAN_A3:.0f}; std {volumes.std():.0f}, expected {MEAN_A3 / np.sqrt(28):.0f}"
    record_property("volumes", report)
    print(report)
    assert stderr < 0.05 * MEAN_A3
    assert abs(volumes.mean() - MEAN_A3) < 3 * stderr
    assert volumes.std() == pytest.approx(MEAN_A3 / np.sqrt(28), rel=0.25)
    # Unwrapped atoms move with the cell, and no frame is taken for a jump.
    temperature = np.array([log["temperature_K"] for log in logs])
    assert abs(temperature.mean() - TEMPERATURE_K) < 4.0


class Pairs(argon.Argon):
    """Learned forces know no molecules: here a force that OpenMM sees no bonds in."""

    def create_system(self, topology, constraints=None):
        system = super().create_system(topology, constraints)
        while system.getNumForces():
            system.removeForce(0)
        force = openmm.PythonForce(lambda state: (0.0, np.zeros((27, 3))))
        force.setUsesPeriodicBoundaryConditions(True)
        system.addForce(force)
        return system


def test_molecules_are_moved_as_wholes(tmp_path):
    """By the bonds of the topology, which cost nothing and leave the choice of the platform alone."""
    frames = argon.frames()
    protocol = npt_protocol(tmp_path, frames)
    topology = read_structure(protocol.structure_path)
    atoms = list(topology.atoms())
    for i in range(0, 26, 2):
        topology.addBond(atoms[i], atoms[i + 1])
    system = create_system(Pairs(), protocol, topology)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    assert sorted(context.getMolecules()) == [*((i, i + 1) for i in range(0, 26, 2)), (26,)]
    context.setPositions(0.1 * frames.positions[0])
    assert context.getState(energy=True).getPotentialEnergy()._value == 0.0
    assert choose_platform("auto", system).name in ("Reference", "CUDA")


def test_forces_without_an_energy_are_refused(tmp_path):
    frames = argon.frames()
    protocol = npt_protocol(tmp_path, frames)
    direct = argon.Argon(card={"claims": {"conservative": False}})
    with pytest.raises(SimulationError, match="predicts forces directly, and no energy") as caught:
        run_protocol(protocol, direct, tmp_path / "run", start_frames=frames)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_structure_without_a_cell_is_refused(tmp_path):
    frames = dataclasses.replace(ethanol.frames(), cells=None)
    ethanol.write_pdb(tmp_path / "ethanol.pdb")
    like = npt_protocol(tmp_path, argon.frames())
    protocol = dataclasses.replace(like, structure=str(tmp_path / "ethanol.pdb"))
    with pytest.raises(SimulationError, match=r"is NPT, but .* has no periodic cell"):
        run_protocol(protocol, ethanol.HarmonicEthanol(), tmp_path / "run", start_frames=frames)
