"""Every protocol that ships, and every variant, runs: two frames with a cheap force."""

import dataclasses

import harmonic_ethanol
import numpy as np
import pytest

from openmm_mlbench.protocol import list_protocols, load_protocol
from openmm_mlbench.reference_potentials import find_reference_potential
from openmm_mlbench.simulation.run_folder import read_run
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.simulation.starts import structure_frames

POTENTIALS = {"water": "spcfw-mdsim", "alanine-dipeptide": "amber03-obc", "lips": "lips-fm"}
# One molecule stands for all: their files differ in nothing but the name.
NAMES = [n for n in list_protocols(variants=True) if n.startswith(("ethanol", *POTENTIALS))]


def provider_of(system):
    if system == "ethanol":
        return harmonic_ethanol.HarmonicEthanol()
    return find_reference_potential(POTENTIALS[system])


def test_the_molecules_have_one_protocol():
    ethanol = load_protocol("ethanol")
    for name in ("aspirin", "naphthalene", "salicylic-acid"):
        same = dataclasses.replace(load_protocol(name), name="ethanol", system="ethanol")
        assert same.sha256 == ethanol.sha256
        # Nothing turns in naphthalene.
        rigid = {"dihedrals"} if name == "naphthalene" else set()
        assert set(ethanol.observables) - set(same.observables) == rigid
        assert set(same.observables) <= set(ethanol.observables)


@pytest.mark.parametrize("name", NAMES)
def test_two_frames(name, tmp_path):
    protocol = load_protocol(name)
    if protocol.timestep_fs < 0.25 and protocol.system == "water":
        pytest.skip("2,000 steps of water take too long here; dt0.25 runs")
    provider = provider_of(protocol.system)
    start = dataclasses.replace(protocol, initial_positions="structure")
    statuses = run_protocol(
        start,
        provider,
        tmp_path / "run",
        start_frames=structure_frames(start),
        replicas=1,
        length_ps=2 * protocol.frame_interval_ps,
        platform="CPU" if protocol.system in ("water", "lips") else "Reference",
        metadynamics="native" if protocol.metadynamics else "auto",
    )
    assert [status.state for status in statuses] == ["finished"]
    folder = tmp_path / "run" / "replica-0"
    log = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    assert log["step"].tolist() == [protocol.steps_per_frame, 2 * protocol.steps_per_frame]
    assert (log["temperature_K"] / protocol.temperature_K).min() > 0.2
    assert (log["temperature_K"] / protocol.temperature_K).max() < 3
    assert (folder / "HILLS").exists() == (protocol.metadynamics is not None)
    assert read_run(tmp_path / "run")["protocol"]["ensemble"] == protocol.ensemble
