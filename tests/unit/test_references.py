"""References: what ships is what its data say, and noise floors are what a naive loop gives."""

import json

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import dataset_path, list_datasets, load_dataset, system_of
from openmm_mlbench.errors import DataError, MetricError
from openmm_mlbench.metrics.distances import compute_h_r, h_r_mae, histogram_bin_width
from openmm_mlbench.references import (
    Reference,
    build_reference,
    load_canonical_reference,
    load_reference,
    reference_from_md17,
)
from openmm_mlbench.topology import bond_lengths, find_bonds, read_structure

# Rings of each molecule.
MOLECULES = {"aspirin": 1, "ethanol": 0, "naphthalene": 2, "salicylic-acid": 1}


def dimer_positions(n_frames=60, seed=0):
    """Two atoms 0.74 A apart, give or take; correlated in time, as dynamics is."""
    noise = np.random.default_rng(seed).normal(0, 0.02, n_frames + 4)
    positions = np.zeros((n_frames, 2, 3))
    positions[:, 1, 0] = 0.74 + np.convolve(noise, np.ones(5) / np.sqrt(5), mode="valid")
    return positions


def dimer(positions=None, frames_per_block=5):
    return build_reference(
        dimer_positions() if positions is None else positions,
        np.array([1, 1]),
        dataset="toy",
        level_of_theory="toy",
        temperature_K=300.0,
        source="a test",
        method="drawn",
        frame_interval_ps=0.1,
        frames_per_block=frames_per_block,
    )


def test_reference_of_a_dimer():
    positions = dimer_positions()
    reference = dimer(positions)
    assert reference.bonds.tolist() == [[0, 1]]
    assert reference.bond_lengths_A[0] == pytest.approx(positions[:, 1, 0].mean())
    r, density = compute_h_r(positions)
    np.testing.assert_allclose(reference.h_r[0], r)
    np.testing.assert_allclose(reference.density, density)
    assert reference.density.sum() * reference.bin_width == pytest.approx(1.0)
    assert (reference.block_ps, reference.length_ps) == (0.5, pytest.approx(6.0))
    assert reference.h_r_mae(positions) == pytest.approx(0.0, abs=1e-12)
    assert reference.h_r_mae(positions * 5) == pytest.approx(2.0)


def test_rest_goes_into_the_last_block():
    reference = dimer(dimer_positions(64))
    assert len(reference.blocks) == 12
    assert reference.blocks.sum(axis=1).tolist() == [5] * 11 + [9]


@pytest.mark.parametrize("length_ps", [0.5, 1.0, 1.6, 2.0, 2.9])
def test_noise_floor_against_a_naive_loop(length_ps):
    positions = dimer_positions()
    width = histogram_bin_width()
    n = round(length_ps / 0.5) * 5
    naive = []
    for start in range(0, 60 - n + 1, n):
        rest = np.concatenate([positions[:start], positions[start + n :]])
        naive.append(h_r_mae(compute_h_r(positions[start : start + n])[1], compute_h_r(rest)[1], width))
    floor = dimer(positions).noise_floor(length_ps)
    if n == 30:  # half of it: one comparison, counted once
        naive = naive[:1]
    assert floor.value == pytest.approx(np.mean(naive))
    assert floor.length_ps == pytest.approx(n * 0.1)


def test_noise_floor_beyond_half_uses_the_halves():
    positions = dimer_positions()
    floor = dimer(positions).noise_floor(300.0)
    halves = [compute_h_r(part)[1] for part in (positions[:30], positions[30:])]
    assert floor.value == pytest.approx(h_r_mae(*halves, histogram_bin_width()))
    assert floor.length_ps == pytest.approx(3.0)
    assert "first against second half" in floor.note
    assert "too short for chunks of 300 ps" in floor.note


def test_noise_floor_where_it_cannot_be_known():
    assert dimer().noise_floor(0.2) is None
    assert dimer(frames_per_block=60).noise_floor(6.0) is None


def test_noise_floor_at_fewer_frames_is_that_of_frames_left_out():
    """Counts drawn at random scatter as frames do: against the same chunks with frames really left out."""
    reference = load_reference("ethanol-gfn2")
    frames = load_dataset("ethanol-gfn2")
    # All 1,500 frames in blocks of ten, as if they were 0.1 ps apart.
    dense = build_reference(
        frames.positions,
        frames.atomic_numbers,
        dataset="dense",
        level_of_theory="",
        temperature_K=500.0,
        source="",
        method="",
        frame_interval_ps=0.1,
        frames_per_block=10,
    )
    total = dense.blocks.sum(axis=0)
    for length_ps, n_frames in ((1.0, 3), (5.0, 10)):
        per_chunk = round(length_ps / dense.block_ps)
        direct = []
        for start in range(0, len(dense.blocks) - per_chunk + 1, per_chunk):
            inside = dense.blocks[start : start + per_chunk].sum(axis=0)
            chunk = frames.positions[10 * start : 10 * (start + per_chunk)]
            _, some = compute_h_r(chunk[:: len(chunk) // n_frames][:n_frames])
            rest = (total - inside) / ((total - inside).sum() * dense.bin_width)
            direct.append(h_r_mae(some, rest, dense.bin_width))
        floor = dense.noise_floor(length_ps, n_frames)
        # Each bond is once in every frame, so that frames scatter a little less than pairs: 3 %.
        assert np.mean(direct) < floor.value < 1.05 * np.mean(direct)
        assert floor.value > 1.2 * dense.noise_floor(length_ps).value
        assert f"thinned to the {n_frames} frames of the run" in floor.note
    # As many frames as there are, and more than there are.
    assert reference.noise_floor(5.0, 100) == reference.noise_floor(5.0)
    more = reference.noise_floor(5.0, 500)
    assert more.value == reference.noise_floor(5.0).value
    assert "it has 100 frames in that time, with the run's 500 it would score less" in more.note
    assert reference.noise_floor(5.0, 50) == reference.noise_floor(5.0, 50)


def test_noise_floor_falls_with_length():
    reference = load_reference("ethanol-gfn2")
    floors = [reference.noise_floor(length).value for length in (1, 5, 20, 75)]
    assert floors == sorted(floors, reverse=True)
    # Independent samples would give 1/sqrt(length), a factor of 8.7.
    assert 4 < floors[0] / floors[-1] < 12


def test_save_and_load(tmp_path):
    reference = dimer()
    reference.save(tmp_path / "x.json")
    back = Reference.load(tmp_path / "x.json")
    for key, value in vars(reference).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(getattr(back, key), value, atol=1e-6)
        else:
            assert getattr(back, key) == value
    back.save(tmp_path / "y.json")
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": []},
        {"blocks": ["1 2", "1"]},
        {"blocks": ["1 x"]},
        {"blocks": ["-1 2"]},
        {"first_bin": 499},
        {"first_bin": -3},
        {"n_bins": 10**12},
        {"n_bins": "500"},
        {"bonds": ["0"]},
        {"bond_lengths_A": []},
        {"block_ps": 0},
        {"block_ps": "1"},
        {"r_max_A": None},
        {"surprise": 1},
    ],
)
def test_damaged_reference(tmp_path, change):
    path = tmp_path / "x.json"
    dimer().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MetricError, match=r"x\.json: not a reference") as caught:
        Reference.load(path)
    assert "\n" not in str(caught.value)


def test_no_reference_file(tmp_path):
    with pytest.raises(MetricError, match="cannot be read"):
        Reference.load(tmp_path / "absent.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(MetricError, match="not a reference"):
        Reference.load(tmp_path / "x.json")


def test_a_reference_that_breaks_its_own_bonds_is_refused():
    positions = dimer_positions()
    positions[7, 1, 0] = 4.0
    with pytest.raises(MetricError, match="deviates by"):
        dimer(positions)
    with pytest.raises(MetricError, match="cannot be cut into blocks of 100"):
        dimer(frames_per_block=100)


@pytest.mark.parametrize(
    "name", [entry.name for entry in list_datasets() if entry.system in MOLECULES], ids=lambda name: name
)
def test_every_molecule_has_its_references(name):
    reference = load_reference(name)
    topology, positions = read_structure(asset_path("systems", system_of(name), "topology.pdb"))
    n_pairs = topology.n_atoms * (topology.n_atoms - 1) // 2
    assert reference.dataset == name
    assert reference.bonds.tolist() == find_bonds(topology.atomic_numbers, positions).tolist()
    # As many bonds as atoms, less one, and one more for each ring.
    assert len(reference.bonds) == topology.n_atoms - 1 + MOLECULES[system_of(name)]
    assert reference.temperature_K == 500.0
    assert reference.source
    assert reference.density.sum() * reference.bin_width == pytest.approx(1.0)
    # No pair is farther apart than 10 A.
    assert reference.blocks.sum() == n_pairs * reference.n_frames
    assert reference.length_ps > 100
    assert reference.noise_floor(5.0).value < 0.2
    at_minimum = bond_lengths(positions, reference.bonds)
    assert np.abs(reference.bond_lengths_A - at_minimum).max() < 0.06


def test_bond_lengths_of_ethanol():
    for name in ("ethanol", "ethanol-gfn2"):
        # C-C, C-O, C-H, O-H
        np.testing.assert_allclose(
            load_reference(name).bond_lengths_A[[0, 1, 3, 7]], [1.53, 1.43, 1.11, 0.97], atol=0.02
        )


@pytest.mark.parametrize("molecule", MOLECULES)
def test_references_in_a_true_ensemble(molecule):
    """Of a kernel model with MD17's labels: the same molecule, colder than MD17's frames, so sharper and shorter."""
    canonical, frames = load_canonical_reference(molecule), load_reference(molecule)
    assert canonical.temperature_K == 500.0
    assert "PBE+vdW-TS" in canonical.level_of_theory
    assert f"--model sgdml-{molecule}" in canonical.method
    assert canonical.length_ps == 300.0
    assert canonical.bonds.tolist() == frames.bonds.tolist()
    assert np.abs(canonical.bond_lengths_A - frames.bond_lengths_A).max() < 0.01
    assert canonical.density.max() > frames.density.max()
    # Anharmonic bonds are longer in hotter frames.
    assert (canonical.bond_lengths_A < frames.bond_lengths_A).mean() > 0.8
    assert load_canonical_reference(f"{molecule}-gfn2") is None


def test_shipped_reference_belongs_to_the_shipped_data():
    """The 1,500 labelled frames are every fourth of the 6,000 behind the reference."""
    reference, frames = load_reference("ethanol-gfn2"), load_dataset("ethanol-gfn2")
    assert reference.n_frames == 4 * frames.n_frames
    assert reference.level_of_theory == frames.level_of_theory
    # A quarter of the frames: close, far below the floor of a 5 ps run, yet not equal.
    assert 0.0 < reference.h_r_mae(frames.positions) < 0.05


def test_levels_of_theory_differ():
    """A model is compared with its own data: the two surfaces are three noise floors apart."""
    md17, gfn2 = load_reference("ethanol"), load_reference("ethanol-gfn2")
    apart = h_r_mae(md17.density, gfn2.density, md17.bin_width)
    assert apart > 2.5 * gfn2.noise_floor(300.0).value


def test_revised_labels_use_the_original_geometries():
    original, revised = load_reference("ethanol"), load_reference("ethanol-rmd17")
    np.testing.assert_array_equal(original.blocks, revised.blocks)
    assert "sampled at PBE+vdW-TS" in revised.note


def test_unknown_data_set_and_absent_reference(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="is not known"):
        load_reference("benzene")
    monkeypatch.setattr("openmm_mlbench.references.asset_path", tmp_path.joinpath)
    assert load_reference("ethanol") is None


@pytest.mark.parametrize("molecule", MOLECULES)
def test_real_frames_give_the_shipped_reference(molecule, tmp_path):
    if not dataset_path(molecule).is_file():
        pytest.skip("real MD17 data are not at hand (set MLBENCH_DATA)")
    frames = load_dataset(molecule)
    shipped = load_reference(molecule)
    reference_from_md17(frames, source=shipped.source).save(tmp_path / "x.json")
    path = asset_path("systems", molecule, "references", f"{molecule}.json")
    assert (tmp_path / "x.json").read_bytes() == path.read_bytes()
    with pytest.raises(MetricError, match="sort them by time"):
        reference_from_md17(frames.select(np.array([3, 2, 1])))


@pytest.mark.parametrize("molecule", MOLECULES)
def test_numbers_in_the_readme_of_the_system(molecule):
    """The table of noise floors is what the shipped references give."""
    folder = asset_path("systems", molecule)
    text = (folder / "README.md").read_text(encoding="utf-8")
    names = [name for name in (f"{molecule}-gfn2", f"{molecule}-sgdml", molecule) if f"`{name}` |" in text]
    references = [Reference.load(folder / "references" / f"{name}.json") for name in names]
    shipped = {path.stem for path in folder.glob("references/*.json")}
    assert set(names) == shipped & {f"{molecule}-gfn2", f"{molecule}-sgdml", molecule}
    rows = {f"{length} ps": float(length) for length in (1, 5, 20, 100)} | {
        "first against second half": 300.0
    }
    for name, length in rows.items():
        values = [f"{reference.noise_floor(length).value:.3f}" for reference in references]
        assert f"| {name} | {' | '.join(values)} |" in text
