"""Classical data: labels fit the stored positions, seeds decide, a cut-off run goes on unchanged."""

import dataclasses
import json

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_mlbench import __version__
from openmm_mlbench.assets import asset_path
from openmm_mlbench.data import classical, sampling
from openmm_mlbench.data.classical import (
    FORCE_UNIT_EV_A,
    POSITION_UNIT_A,
    RECIPES,
    WATER_CELL_A,
    exact_cell,
    generate_classical,
    settings_for,
)
from openmm_mlbench.data.readers import read_npz, read_provenance
from openmm_mlbench.errors import DataError
from openmm_mlbench.generation import VARIANTS, find_variant, generate
from openmm_mlbench.reference_potentials import find_reference_potential, water
from openmm_mlbench.topology import rigid_hydrogen_bonds
from openmm_mlbench.units import EV_PER_KJMOL


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(sampling, "FRAMES_PER_SEGMENT", 2)
    monkeypatch.setattr(classical, "_MINIMIZER_STEPS", 20)


def tiny(dataset, seed=0, **changes):
    return settings_for(
        dataset, **({"n_frames": 6, "length_ps": 0.06, "equilibration_ps": 0.02, "seed": seed} | changes)
    )


def label(dataset, constraints, positions_A):
    """Energy, eV, and forces, eV/A, from a System made anew."""
    recipe = RECIPES[dataset]
    pdb = app.PDBFile(str(asset_path("systems", recipe.system, "topology.pdb")))
    cell = exact_cell(recipe.system)
    if cell is not None:
        pdb.topology.setPeriodicBoxVectors(cell * unit.angstrom)
    system = find_reference_potential(recipe.potential).create_system(pdb.topology, constraints=constraints)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions_A * 0.1)
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return (
        state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * EV_PER_KJMOL,
        forces * EV_PER_KJMOL,
    )


def test_water_frames(tmp_path, short):
    run = generate_classical(tiny("water-1k"), tmp_path / "x.npz")
    frames = read_npz(tmp_path / "x.npz")
    assert (frames.n_frames, frames.n_atoms, frames.name) == (6, 192, "water-1k")
    assert frames.interval_fs == 10.0
    np.testing.assert_allclose(frames.cells, np.tile(np.eye(3) * 12.44288, (6, 1, 1)))
    np.testing.assert_array_equal(frames.positions % POSITION_UNIT_A, 0)
    np.testing.assert_array_equal(frames.forces % FORCE_UNIT_EV_A, 0)
    molecules = frames.positions.reshape(6, 64, 3, 3)
    assert (molecules[:, :, 0] >= 0).all()
    assert (molecules[:, :, 0] <= WATER_CELL_A).all()
    assert np.linalg.norm(molecules[:, :, 1:] - molecules[:, :, :1], axis=-1).max() < 1.3
    for index in (0, 5):
        energy, forces = label("water-1k", None, frames.positions[index])
        assert energy == pytest.approx(frames.energies[index], abs=1e-8)
        np.testing.assert_allclose(forces, frames.forces[index], atol=FORCE_UNIT_EV_A / 2 + 1e-7)
    assert read_provenance(tmp_path / "x.npz") == run.provenance
    assert run.provenance["potential"] == "spcfw-mdsim"
    assert run.provenance["openmm-mlbench"] == __version__


def test_every_potential_has_a_hash_of_its_coefficients(monkeypatch):
    names = {recipe.potential: bool(recipe.solvent) for recipe in RECIPES.values()}
    hashes = {
        name: classical.coefficients_sha256(find_reference_potential(name), solvated=solvated)
        for name, solvated in names.items()
    }
    assert len(set(hashes.values())) == len(names) == 5
    again = classical.coefficients_sha256(find_reference_potential("spcfw"), solvated=False)
    assert again == hashes["spcfw"]
    monkeypatch.setattr(water, "HYDROGEN_CHARGE", water.HYDROGEN_CHARGE + 1e-9)
    changed = classical.coefficients_sha256(find_reference_potential("spcfw"), solvated=False)
    assert changed != hashes["spcfw"]


def test_rigid_hydrogens_keep_their_lengths(tmp_path, short):
    """To 1e-5 A, and labels are raw forces: none of constraints in them."""
    frames = generate_classical(tiny("alanine-dipeptide-obc", length_ps=0.12), tmp_path / "x.npz").frames
    assert frames.constraints == "h-bonds"
    bonds, lengths = rigid_hydrogen_bonds(frames.atomic_numbers, frames.positions)
    assert len(bonds) == 12
    found = np.linalg.norm(frames.positions[:, bonds[:, 0]] - frames.positions[:, bonds[:, 1]], axis=-1)
    assert np.abs(found - lengths).max() < 1e-5
    assert sorted(set(np.round(lengths, 4))) == [1.01, 1.09]
    stored = read_npz(tmp_path / "x.npz")
    energy, forces = label("alanine-dipeptide-obc", app.HBonds, stored.positions[3])
    assert energy == pytest.approx(stored.energies[3], abs=1e-8)
    np.testing.assert_allclose(forces, stored.forces[3], atol=FORCE_UNIT_EV_A / 2 + 1e-7)


def test_flexible_hydrogens_move(tmp_path, short):
    frames = generate_classical(tiny("alanine-dipeptide-obc-flexible"), tmp_path / "x.npz").frames
    assert frames.constraints == "none"
    lengths = np.linalg.norm(frames.positions[:, 0] - frames.positions[:, 1], axis=-1)
    assert np.ptp(lengths) > 1e-3
    _, forces = label("alanine-dipeptide-obc-flexible", None, frames.positions[2])
    np.testing.assert_allclose(forces, frames.forces[2], atol=FORCE_UNIT_EV_A / 2 + 1e-7)


@pytest.mark.parametrize("dataset", ["alanine-dipeptide-obc", "water-spcfw-1k"])
def test_cut_off_run_goes_on_unchanged(tmp_path, short, dataset):
    settings = tiny(dataset, seed=1)
    generate_classical(settings, tmp_path / "whole.npz")

    def interrupt(done_ps, _):
        if done_ps > 0.03:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_classical(settings, tmp_path / "cut.npz", progress=interrupt)
    assert len(list((tmp_path / "cut.work").glob("segment-*.npz"))) == 2
    assert not (tmp_path / "cut.npz").exists()
    generate_classical(settings, tmp_path / "cut.npz")
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    with pytest.raises(DataError, match="a run with seed 1 was begun here, now 2 is wanted"):
        generate_classical(tiny(dataset, seed=2), tmp_path / "cut.npz")


def test_seeds_differ(tmp_path, short):
    first, second = (
        generate_classical(tiny("alanine-dipeptide-obc", seed=seed), tmp_path / f"{seed}.npz").frames
        for seed in (3, 4)
    )
    assert np.abs(first.positions - second.positions).max() > 1e-3


def test_forces_in_explicit_water_are_those_on_the_solute(short):
    """Raw forces of the whole System on the first 22 atoms; without the water they are others."""
    settings = dataclasses.replace(
        tiny("alanine-dipeptide-explicit", platform="CPU", n_frames=2, length_ps=0.02), solvent=270
    )
    potential = find_reference_potential("amber03-tip3p")
    dynamics = classical._SolvatedDynamics(settings, potential)
    assert dynamics.topology.getNumAtoms() == 22 + 3 * 270
    assert dynamics.system.getNumConstraints() == 12 + 3 * 270
    (barostat,) = (f for f in dynamics.system.getForces() if isinstance(f, openmm.MonteCarloBarostat))
    assert barostat.getDefaultPressure().value_in_unit(unit.bar) == pytest.approx(1.0)
    dynamics.equilibrate()
    part = dynamics.segment(2)
    assert part["trajectory"].shape == part["forces"].shape == (2, 22, 3)
    state = dynamics.context.getState(positions=True)
    dynamics.topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
    positions = state.getPositions(asNumpy=True)

    def solute_forces(topology, positions, name):
        platform = openmm.Platform.getPlatformByName("CPU")
        system = find_reference_potential(name).create_system(topology, constraints=app.HBonds)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(positions)
        forces = context.getState(forces=True).getForces(asNumpy=True)
        return forces.value_in_unit(unit.kilojoule_per_mole / unit.angstrom)[:22] * EV_PER_KJMOL

    everything = solute_forces(dynamics.topology, positions, "amber03-tip3p")
    np.testing.assert_allclose(part["forces"][-1], everything, atol=2e-3)
    pdb = app.PDBFile(str(asset_path("systems", "alanine-dipeptide", "topology.pdb")))
    alone = solute_forces(pdb.topology, positions[:22], "amber03-obc")
    assert np.abs(part["forces"][-1] - alone).max() > 0.1
    stored = positions[:22].value_in_unit(unit.angstrom)
    stored = stored - dynamics.masses @ stored / dynamics.masses.sum()
    np.testing.assert_allclose(part["trajectory"][-1], stored, atol=1e-5)


def test_variants():
    assert find_variant("water").name == "spcfw-mdsim"
    assert find_variant("alanine-dipeptide").name == "obc"
    assert find_variant("alanine-dipeptide", "explicit").full_n_frames == 50_000
    with pytest.raises(DataError, match="water has no variant 'tip3p'; it has spcfw-mdsim, spcfw"):
        find_variant("water", "tip3p")
    with pytest.raises(DataError, match="no data of 'benzene' can be generated"):
        find_variant("benzene")
    pairs = [(variant.system, variant.name) for variant in VARIANTS]
    assert len(set(pairs)) == len(pairs)


def test_generate_writes_where_it_says(tmp_path, short, monkeypatch):
    recipe = dataclasses.replace(RECIPES["alanine-dipeptide-obc"], equilibration_ps=0.02)
    monkeypatch.setitem(RECIPES, recipe.dataset, recipe)
    written = generate("alanine-dipeptide", tmp_path, n_frames=2, length_ps=0.04, seed=1)
    assert written == [tmp_path / "alanine-dipeptide-obc.npz"]
    assert read_npz(written[0]).interval_fs == 20.0


@pytest.mark.parametrize(
    ("dataset", "change", "message"),
    [
        ("water-1k", {"timestep_fs": 2.0}, "unconstrained hydrogens need at most 1 fs"),
        ("alanine-dipeptide-obc", {"timestep_fs": 4.0}, "constrained hydrogens need at most 2 fs"),
        ("alanine-dipeptide-obc", {"length_ps": 0.03}, "interval_fs is not a multiple of timestep_fs"),
        ("water-1k", {"n_frames": 0}, "n_frames is 0"),
        ("water-2k", {}, "no classical force field makes 'water-2k'"),
    ],
)
def test_bad_settings(dataset, change, message):
    with pytest.raises(DataError, match=message):
        tiny(dataset, **change)


def test_lips_frames(tmp_path, short):
    """Atoms lie in the triclinic cell, and a label belongs to what is stored."""
    generate_classical(tiny("lips-fm"), tmp_path / "x.npz")
    frames = read_npz(tmp_path / "x.npz")
    assert (frames.n_frames, frames.n_atoms, frames.name) == (6, 83, "lips-fm")
    assert "CC-BY-4.0" in frames.source
    cell = exact_cell("lips")
    np.testing.assert_allclose(frames.cells, np.tile(cell, (6, 1, 1)))
    fractional = frames.positions @ np.linalg.inv(cell)
    assert fractional.min() > -1e-4
    assert fractional.max() < 1 + 1e-4
    energy, forces = label("lips-fm", None, frames.positions[5])
    assert energy == pytest.approx(frames.energies[5], abs=1e-8)
    np.testing.assert_allclose(forces, frames.forces[5], atol=FORCE_UNIT_EV_A / 2 + 1e-7)


def test_unknown_platform(tmp_path):
    with pytest.raises(DataError, match="no OpenMM platform 'TPU'; there are Reference, CPU"):
        generate_classical(tiny("water-1k", platform="TPU"), tmp_path / "x.npz")


@pytest.mark.parametrize("dataset", [name for name in RECIPES if not RECIPES[name].solvent])
def test_shipped_data_are_those_of_the_command(dataset):
    """Settings inside the file are those of `data generate`, and its labels those of its potential."""
    recipe = RECIPES[dataset]
    path = asset_path("systems", recipe.system, f"{dataset}.npz")
    provenance = read_provenance(path)
    variant = next(
        variant
        for variant in VARIANTS
        if variant.system == recipe.system
        and RECIPES[dataset].potential == provenance["potential"]
        and (variant.n_frames, variant.length_ps) == (provenance["n_frames"], provenance["length_ps"])
    )
    settings = settings_for(dataset, n_frames=variant.n_frames, length_ps=variant.length_ps)
    assert {key: provenance[key] for key in vars(settings)} == json.loads(json.dumps(vars(settings)))
    frames = read_npz(path)
    rigid = app.HBonds if frames.constraints == "h-bonds" else None
    for index in (0, frames.n_frames - 1):
        energy, forces = label(dataset, rigid, frames.positions[index])
        assert energy == pytest.approx(frames.energies[index], abs=1e-6)
        np.testing.assert_allclose(forces, frames.forces[index], atol=FORCE_UNIT_EV_A / 2 + 1e-6)
