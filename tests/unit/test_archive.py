"""Archives and their cards: what was written is read, what is damaged is refused, nothing is run."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import fresh_models
import numpy as np
import pytest
import torch

import openmm_mlbench
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.archive import (
    LARGEST_CARD,
    _without_sources,
    find_archive,
    list_archives,
    read_card,
    save_archive,
)
from openmm_mlbench.export.card import Card, Claims


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt")


@pytest.fixture(scope="module")
def card(path):
    return read_card(path)


def zip_with(target, files, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def edited(card, **changes):
    return json.dumps({**json.loads(card.to_json()), **changes})


def test_a_card_comes_back_as_it_was(path, card):
    field = fresh_models.force_field("schnet", fresh_models.TINY["schnet"])
    assert card == fresh_models.card("schnet", field, fresh_models.TINY["schnet"])
    assert Card.from_json(card.to_json(), "here") == card


def test_a_card_is_read_without_running_the_model(path, card, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert read_card(path) == card
    # The card is enough: what stands for the code is never looked at.
    zipped = zip_with(tmp_path / "x.pt", {"x/extra/card.json": card.to_json(), "x/code/evil.py": "1/0"})
    assert find_archive(zipped).card == card


def test_weights_come_back_as_they_were(path):
    archive = find_archive(path)
    written = fresh_models.force_field("schnet", fresh_models.TINY["schnet"])
    field = archive.load_force_field()
    state, wanted = field.state_dict(), written.state_dict()
    assert set(state) == set(wanted)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    positions = torch.as_tensor(fresh_models.ethanol_positions_nm())
    for one, other in zip(archive.load_eager()(positions), archive.load_script()(positions), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-6, atol=1e-3)


def test_an_archive_does_not_tell_where_it_was_made(path):
    """Records of sources and lines hold absolute paths; all that is needed to run is there."""
    with zipfile.ZipFile(path) as archive:
        assert not any(name.endswith(".debug_pkl") for name in archive.namelist())
        root = str(Path(openmm_mlbench.__file__).parents[1]).encode()
        assert not any(root in archive.read(name) for name in archive.namelist())


class Rounded(torch.nn.Module):
    """An operation of an early version of the format."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.floor(x)


class Smooth(torch.nn.Module):
    """An operation of a late one, whose archives keep the version in another place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x)


@pytest.mark.parametrize("module", [Rounded(), Smooth()])
def test_any_version_of_the_format_is_kept(module):
    original = io.BytesIO()
    torch.jit.save(torch.jit.script(module), original)
    stripped = _without_sources(original)
    contents = []
    for content in (original.getvalue(), stripped):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            contents.append(
                {
                    name: archive.read(name)
                    for name in archive.namelist()
                    if not name.endswith((".debug_pkl", "serialization_id"))
                }
            )
    assert contents[0] == contents[1]
    assert sum(name.endswith("version") for name in contents[0]) == 1
    x = torch.linspace(-2, 2, 7)
    assert torch.equal(torch.jit.load(io.BytesIO(stripped))(x), module(x))


def test_the_id_of_a_file_is_its_path(path):
    archive = find_archive(str(path))
    assert archive.id == str(path)
    assert archive.path == path
    assert len(archive.sha256) == 64


def test_every_shipped_model_is_found_by_its_id():
    for name in list_archives():
        archive = find_archive(name)
        assert archive.id == name
        assert name == f"{archive.card.trained_on.dataset}/{archive.card.model}"


@pytest.mark.parametrize(
    "name",
    ["ethanol/none", "schnet", "", ".", "/", "../../etc/none", "../torchscript_models/../pyproject",
     "ethanol/../../README", "/etc/hostname.pt", "a" * 300, "ethanol\n/schnet"],
)  # fmt: skip
def test_ids_that_are_not_there(name):
    with pytest.raises(ModelError, match="is neither a file nor a shipped model; shipped are"):
        find_archive(name)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_card(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="neither a file"):
        find_archive(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncated_archives(path, tmp_path, keep):
    content = path.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ModelError, match="not a complete TorchScript archive"):
        find_archive(cut)


def test_a_flipped_byte_in_the_card(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[content.index(b'"cutoff_A"') + 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(ModelError, match="not a complete TorchScript archive"):
        read_card(tmp_path / "flipped.pt")


def test_archives_without_a_card(tmp_path, card):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "plain.pt"))
    zip_with(tmp_path / "two.pt", {f"{k}/extra/card.json": card.to_json() for k in "ab"})
    for name in ("plain.pt", "two.pt"):
        with pytest.raises(ModelError, match=f"{name} has no card; export it"):
            read_card(tmp_path / name)


def test_a_card_that_unpacks_to_far_more(tmp_path):
    bomb = zip_with(
        tmp_path / "bomb.pt", {"x/extra/card.json": b" " * (LARGEST_CARD + 1)}, zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 10_000
    with pytest.raises(ModelError, match="is larger than"):
        read_card(bomb)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "card has format 2, this version reads 1"),
        ({"format": None}, "card has format None"),
        ({"surprise": 1}, "not valid .*surprise"),
        ({"claims": {"conservative": True}}, "not valid .*missing"),
        ({"claims": 5}, "not valid"),
        ({"trained_on": []}, "not valid"),
        ({"cutoff_A": "5"}, "not valid .*cutoff_A is a str, wanted float"),
        ({"cutoff_A": -5.0}, "not valid .*cutoff_A is -5"),
        ({"cutoff_A": float("nan")}, "not valid .*cutoff_A is nan"),
        ({"species": []}, "not valid .*species"),
        ({"species": ["H"]}, "not valid .*atomic numbers"),
        ({"species": [1, 119]}, "not valid .*atomic numbers"),
        ({"hyperparameters": "small"}, "not valid .*hyperparameters is a str"),
        ({"errors": {"force_mae_meV_A": "good"}}, "not valid .*errors must be numbers"),
    ],
)
def test_cards_that_are_not_valid(tmp_path, card, changes, message):
    bad = zip_with(tmp_path / "bad.pt", {"x/extra/card.json": edited(card, **changes)})
    with pytest.raises(ModelError, match=message):
        read_card(bad)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"card"', b"null", b"\xff\xfe", b"[" * 100_000])
def test_cards_that_are_no_json_object(tmp_path, text):
    bad = zip_with(tmp_path / "bad.pt", {"x/extra/card.json": text})
    with pytest.raises(ModelError, match=r"not valid|not a complete"):
        read_card(bad)


def test_a_card_without_a_model(tmp_path, card):
    archive = find_archive(zip_with(tmp_path / "x.pt", {"x/extra/card.json": card.to_json()}))
    with pytest.raises(ModelError, match="cannot be loaded as TorchScript") as caught:
        archive.load_script()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyperparameters": {"hidden": 8}}, "weights do not fit the card's schnet network"),
        ({"hyperparameters": {"size": 8}}, "hyperparameters of schnet"),
        ({"model": "deeppot-se"}, "hyperparameters of deeppot-se"),
        ({"model": "painn"}, "model 'painn' is not known"),
    ],
)
def test_a_card_of_another_network(path, card, changes, message):
    archive = dataclasses.replace(find_archive(path), card=dataclasses.replace(card, **changes))
    with pytest.raises(ModelError, match=message):
        archive.load_eager()


def test_saving_replaces_the_old_file_only_when_done(tmp_path, monkeypatch):
    path = fresh_models.write_archive(tmp_path / "model.pt")
    before = path.read_bytes()
    field = fresh_models.force_field("schnet", fresh_models.TINY["schnet"], seed=1)
    card = fresh_models.card("schnet", field, fresh_models.TINY["schnet"])
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            save_archive(field, card, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
    save_archive(field, card, path)
    assert path.read_bytes() != before


def test_claims_hold_truth_values_only():
    with pytest.raises(TypeError, match="rotation is a str, wanted bool"):
        Claims(conservative=True, rotation="yes", parity=True, zero_net_force=True)
