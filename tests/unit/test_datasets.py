"""Data sets by name: the right labels, the right molecule, and a clear line when the file is elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import (
    PLACES,
    READERS,
    data_folder,
    dataset_path,
    default_split,
    find_dataset,
    list_datasets,
    load_dataset,
    system_of,
)
from openmm_mlbench.data.readers import read_provenance
from openmm_mlbench.errors import DataError
from openmm_mlbench.topology import read_topology

needs_real = pytest.mark.skipif(
    not (data_folder() / "rmd17" / "ethanol.npz").is_file(),
    reason="real MD17 data are not at hand (set MLBENCH_DATA)",
)


def test_names():
    names = [entry.name for entry in list_datasets()]
    assert len(set(names)) == len(names)
    for molecule in ("aspirin", "ethanol", "naphthalene", "salicylic-acid"):
        assert {molecule, f"{molecule}-rmd17"} <= set(names)
    assert {"water-10k", "water-90k", "water-dft", "alanine-dipeptide-explicit"} <= set(names)
    assert all(entry.name.startswith(system_of(entry.name)) for entry in list_datasets())


@pytest.mark.parametrize("entry", list_datasets(), ids=lambda entry: entry.name)
def test_entries_fit_their_systems(entry):
    """Frames go into Systems made of topology.pdb: the same atoms in the same order."""
    assert all(file.place in PLACES and file.reader in READERS for file in entry.files)
    for file in entry.files:
        assert Path(file.path).suffix in READERS[file.reader][0]
        assert file.place != "shipped" or dataset_path(entry.name).is_file()
    sums = [sum(split) for split in entry.splits]
    assert sums == sorted(sums, reverse=True)
    topology = read_topology(asset_path("systems", entry.system, "topology.pdb"))
    assert topology.atomic_numbers.tolist() == list(entry.atomic_numbers)


@pytest.mark.parametrize("name", [entry.name for entry in list_datasets() if entry.name.endswith("-gfn2")])
def test_shipped_data_of_molecules(name):
    frames, entry = load_dataset(name), find_dataset(name)
    assert frames.n_frames == sum(entry.split)
    assert frames.atomic_numbers.tolist() == list(entry.atomic_numbers)
    assert frames.level_of_theory == "GFN2-xTB"
    np.testing.assert_array_equal(np.diff(frames.frame_indices), 4)  # 0.2 ps in frames of 50 fs
    # The harmonic estimate of the spread at 500 K: sqrt((3 N - 6) / 2) kT = 0.14 eV for ethanol.
    spread_eV = np.sqrt((3 * frames.n_atoms - 6) / 2) * 8.617333e-5 * 500
    # Its hydrogen bond is not harmonic: salicylic acid has 7 % more, the others at most 2.
    rel = 0.10 if name == "salicylic-acid-gfn2" else 0.07
    assert frames.energies.std() == pytest.approx(spread_eV, rel=rel)
    # No net force or torque on an isolated molecule.
    torque = np.cross(frames.positions, frames.forces).sum(axis=1)
    assert np.abs(frames.forces.sum(axis=1)).max() < 1e-5
    assert np.abs(torque).max() < 3e-5
    provenance = read_provenance(dataset_path(name))
    assert (provenance["seed"], provenance["temperature_K"]) == (0, 500.0)
    assert provenance["length_ps"] == pytest.approx(0.2 * frames.n_frames)


def test_default_split_of_shipped_data():
    frames = load_dataset("ethanol-gfn2")
    split = default_split("ethanol-gfn2", frames)
    assert (len(split.train), len(split.validation), len(split.test)) == (1000, 50, 450)
    assert split.seed == 0
    assert split.hash == default_split("ethanol-gfn2", frames).hash


@needs_real
def test_label_sets_share_geometries_not_labels():
    original, revised = load_dataset("ethanol"), load_dataset("ethanol-rmd17")
    np.testing.assert_array_equal(original.positions, revised.positions)
    assert (original.level_of_theory, revised.level_of_theory) == ("PBE+vdW-TS", "PBE/def2-SVP")
    assert np.abs(original.forces - revised.forces).mean() > 0.05
    for frames in (original, revised):
        split = default_split(frames.name, frames)
        assert (len(split.train), len(split.validation), len(split.test)) == (950, 50, 1000)
    assert original.content_hash() != revised.content_hash()


@needs_real
def test_path_for_a_name():
    path = data_folder() / "rmd17" / "ethanol.npz"
    frames = load_dataset("ethanol", path=path)
    assert frames.name == "ethanol"
    assert load_dataset(str(path), labels="md17").content_hash() == frames.content_hash()
    with pytest.raises(DataError, match="are not those of ethanol"):
        load_dataset("ethanol", path=data_folder() / "rmd17" / "aspirin.npz")


def test_shipped_file_by_path():
    frames = load_dataset(dataset_path("ethanol-gfn2"))
    assert frames.content_hash() == load_dataset("ethanol-gfn2").content_hash()


def test_missing_data_say_how_to_give_them(monkeypatch, tmp_path):
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match="--data PATH or set MLBENCH_DATA") as caught:
        load_dataset("ethanol")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ethanl",), "'ethanl' is not known; did you mean ethanol"),
        (("benzene",), "there are aspirin, aspirin-rmd17, "),
        (("ethanol", "rmd17"), "has md17 labels, 'rmd17' was asked for"),
        (("ethanol-gfn2", "md17"), "has its own labels"),
    ],
)
def test_unknown_names_and_labels(arguments, message):
    with pytest.raises(DataError, match=message):
        load_dataset(*arguments)


def test_path_without_a_known_name(tmp_path):
    with pytest.raises(DataError, match="is not known"):
        load_dataset(str(tmp_path), path=dataset_path("ethanol-gfn2"))
    with pytest.raises(DataError, match="is a folder"):
        load_dataset(str(tmp_path))


def test_reading_needs_neither_torch_nor_openmm():
    """A training host may have no OpenMM, a metrics host no torch."""
    code = (
        "import sys\n"
        "for name in ('torch', 'openmm', 'openmmtorch', 'mdtraj', 'tblite'): sys.modules[name] = None\n"
        "from openmm_mlbench.data import frames, readers, splits, datasets\n"
        "from openmm_mlbench import topology, references\n"
        "from openmm_mlbench.metrics import distances\n"
        "data = datasets.load_dataset('ethanol-gfn2')\n"
        "datasets.default_split('ethanol-gfn2', data)\n"
        "references.load_reference('ethanol-gfn2').h_r_mae(data.positions)\n"
        "topology.find_bonds(data.atomic_numbers, data.positions[0])\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_generate_without_options_makes_what_ships():
    """The numbers of the shipped GFN2 sets are those of their one command."""
    from openmm_mlbench.generation import _GFN2_SHIPPED, find_variant

    for system, (n_frames, length_ps, timestep_fs) in _GFN2_SHIPPED.items():
        provenance = read_provenance(asset_path("systems", system, f"{system}-gfn2.npz"))
        found = (provenance["n_frames"], provenance["length_ps"], provenance["timestep_fs"])
        assert found == (n_frames, length_ps, timestep_fs), system
        variant = find_variant(system)
        assert (variant.n_frames, variant.length_ps) == (n_frames, length_ps)
