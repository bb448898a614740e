"""Combinations of protocol and backend that cannot go well, and starts without data."""

import dataclasses

import pytest

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.reference_potentials import find_reference_potential
from openmm_mlbench.simulation.metadynamics.bias import plan_bias
from openmm_mlbench.workflow import start_of


def test_plumed_would_lose_its_bias_with_a_barostat():
    bias = load_protocol("alanine-dipeptide").metadynamics
    protocol = dataclasses.replace(load_protocol("water-npt"), metadynamics=bias)
    with pytest.raises(SimulationError, match="use --metadynamics native"):
        plan_bias(protocol, backend="plumed")
    assert plan_bias(protocol, backend="native").backend == "native"


def test_without_data_there_is_a_start_for_every_replica(monkeypatch, tmp_path):
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    protocol = load_protocol("naphthalene-reference")
    start = start_of(protocol, find_reference_potential("sgdml-naphthalene"), n_replicas=3)
    assert protocol.replicas < 3
    assert start.frames.n_frames == 3
