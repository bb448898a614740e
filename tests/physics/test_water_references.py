"""The shipped references of water: at their temperature, readable, like the published model and like water."""

import importlib.util
import json

import numpy as np
import pytest

from openmm_mlbench.assets import asset_path
from openmm_mlbench.data.datasets import data_folder, load_dataset
from openmm_mlbench.references import reference_file

DATASETS = ("water-1k", "water-spcfw-1k")


def read(dataset, observable, mode="paper"):
    path = reference_file(dataset, observable, mode)
    assert path is not None, (dataset, observable, mode)
    return json.loads(path.read_text())


def result(record, name):
    return next(found for found in record["results"] if found["name"] == name)


@pytest.mark.parametrize("dataset", DATASETS)
def test_both_thermostats_hold_their_temperature(dataset):
    path = asset_path("systems", "water", "references", f"{dataset}-temperature.json")
    for name, found in json.loads(path.read_text())["temperature"].items():
        assert found["stderr"] < 1.5, name
        assert abs(found["value"] - 300.0) < max(1.0, 4 * found["stderr"]), name


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("mode", ["paper", "mdsim"])
def test_rdf_counts_every_atom(dataset, mode):
    """Coordination within 1.3 A: a hydrogen has its oxygen; each oxygen about four others within 3.4 A."""
    record = read(dataset, "rdf", mode)
    assert record["inputs"]["length_ps"] >= 980
    assert record["inputs"]["made_by"]["commands"]
    density = 64 / 12.44288**3
    r, g = (np.array(record["curves"]["H-O"][axis]) for axis in "xy")
    inside = r < 1.5
    width = r[1] - r[0]
    assert 4 * np.pi * density * (g * r**2 * width)[inside].sum() == pytest.approx(1.0, abs=0.01)
    r, g = (np.array(record["curves"]["O-O"][axis]) for axis in "xy")
    shell = 4 * np.pi * density * (g * r**2 * width)[r < 3.4].sum()
    assert 3.8 < shell < 5.5
    assert g[r < 2.2].max() == 0.0


@pytest.mark.parametrize("dataset", DATASETS)
def test_diffusivity_is_that_of_a_small_cell_of_water(dataset):
    found = result(read(dataset, "diffusivity"), "diffusivity")
    assert 1.5 < found["value"] < 2.9
    assert 0 < found["stderr"] < 0.5


def test_geometry_of_the_published_model():
    """Bonds and angles in the liquid stretch and close beyond their rest values, 1.012 A and 113.24 degrees."""
    molecules = load_dataset("water-spcfw-1k").positions.reshape(-1, 3, 3)
    one, two = molecules[:, 1] - molecules[:, 0], molecules[:, 2] - molecules[:, 0]
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1)
    angles = np.degrees(np.arccos((one * two).sum(axis=1) / (lengths[0] * lengths[1])))
    assert np.mean(lengths) == pytest.approx(1.031, abs=0.001)
    assert angles.mean() == pytest.approx(107.7, abs=0.2)


def test_close_to_the_measured_curves():
    """A model of water, not water: within 0.6 A of an integral over 6 A, peaks at the same distance."""
    path = data_folder() / "references" / "water_rdf_soper2013.txt"
    if not path.is_file():
        pytest.skip(f"Soper's curves are not at {path}")
    script = asset_path("systems", "water", "references", "compare.py")
    spec = importlib.util.spec_from_file_location("compare", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for (dataset, pair), found in module.compare(np.loadtxt(path)).items():
        assert found["mae_A"] < 0.6, (dataset, pair)
        assert found["peak_r_A"] == pytest.approx(found["measured_peak_r_A"], abs=0.2), (dataset, pair)
