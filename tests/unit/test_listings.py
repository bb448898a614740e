"""The tables of systems and protocols."""

import pytest

from openmm_mlbench import listings
from openmm_mlbench.data.datasets import list_datasets
from openmm_mlbench.errors import ProtocolError
from openmm_mlbench.export.archive import find_archive, list_archives
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.protocol import list_protocols, protocol_variants


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """A machine on which nothing but the package lies."""
    monkeypatch.setenv("MLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def by_name():
    rows = [dict(zip(listings.SYSTEM_COLUMNS, row, strict=True)) for row in listings.system_rows()]
    return {row["data set"]: row for row in rows}


def test_every_data_set_has_its_row(no_data):
    rows = by_name()
    assert set(rows) == {entry.name for entry in list_datasets()}
    ethanol = rows["ethanol-gfn2"]
    assert (ethanol["system"], ethanol["atoms"]) == ("ethanol", "9")
    assert ethanol["where"].startswith("ships, 3")
    assert ethanol["where"].endswith(" kB")
    assert ethanol["train / validation / test"] == "1000 / 50 / 450"
    assert "h(r)" in ethanol["references"]
    assert ethanol["origin"] == "made here"
    assert rows["ethanol"]["where"] == "data fetch ethanol"
    assert "10.1126/sciadv.1603015" in rows["ethanol"]["origin"]
    assert rows["water-dft"]["where"] == "--data FILE"


def test_data_at_hand_tell_their_size(no_data):
    folder = no_data / "data" / "rmd17"
    folder.mkdir(parents=True)
    (folder / "ethanol.npz").write_bytes(b"x" * 2_500_000)
    assert by_name()["ethanol"]["where"] == "at hand, 2.5 MB"


def test_every_architecture_has_its_row():
    rows = {
        row[0]: dict(zip(listings.ARCHITECTURE_COLUMNS, row, strict=True))
        for row in listings.architecture_rows()
    }
    assert list(rows) == list(ARCHITECTURES)
    schnet = rows["schnet"]
    assert schnet["parameters (ethanol)"] == "117,953"
    assert (schnet["forces"], schnet["symmetry"], schnet["cutoff / A"]) == (
        "conservative",
        "rotation, parity",
        "5",
    )
    assert "ethanol-gfn2" in schnet["shipped for"].split(", ")
    assert all(row["published by"] for row in rows.values())


def test_every_shipped_model_has_its_row():
    rows = {row[0]: dict(zip(listings.MODEL_COLUMNS, row, strict=True)) for row in listings.model_rows()}
    assert list(rows) == list_archives()
    for name, row in rows.items():
        card = find_archive(name).card
        assert row["architecture"] == card.model
        assert row["parameters"] == f"{card.n_parameters:,}"
        assert float(row["force MAE / meV/A"]) == pytest.approx(card.errors["force_mae_meV_A"], abs=0.051)


def test_every_protocol_has_its_row():
    rows = {
        row[0]: dict(zip(listings.PROTOCOL_COLUMNS, row, strict=True)) for row in listings.protocol_rows()
    }
    assert list(rows) == list_protocols()
    water = rows["water"]
    assert water["thermostat / ps-1"] == "Nose-Hoover 50"
    assert (water["runs / ps"], water["steps"], water["stability"]) == ("5 x 500", "500,000", "rdf 3 A")
    assert water["variants"].split(", ") == list(protocol_variants("water"))
    alanine = rows["alanine-dipeptide"]
    assert (alanine["ensemble"], alanine["thermostat / ps-1"]) == ("NVT + metadynamics", "Langevin 49")


def test_variants_have_rows():
    rows = listings.variant_rows("water")
    assert [row[0] for row in rows] == ["-", *protocol_variants("water")]
    assert ["nve", "NVE", "none", "1"] in [row[:4] for row in rows]
    assert listings.variant_rows("water-nve") == listings.variant_rows("water", "nve")
    assert len(listings.variant_rows("water-nve")) == 1
    with pytest.raises(ProtocolError, match="did you mean nve"):
        listings.variant_rows("water", "nev")
