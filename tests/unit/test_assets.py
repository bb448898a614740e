"""Where the package finds what ships beside it."""

import tomllib
from pathlib import Path

import pytest

from openmm_mlbench import assets
from openmm_mlbench.assets import KINDS, asset_path, asset_root
from openmm_mlbench.errors import MLBenchError

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_checkout_is_used_as_it_lies():
    assert asset_root() == CHECKOUT


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("systems", ("ethanol", "topology.pdb")),
        ("systems", ("ethanol", "references", "ethanol-gfn2.json")),
        ("protocols", ("ethanol.xml",)),
        ("protocols", ("protocol.xsd",)),
        ("torchscript_models", ("ethanol-gfn2", "schnet.pt")),
    ],
)
def test_every_kind_is_there(kind, parts):
    assert asset_path(kind, *parts).is_file()


def test_a_wheel_has_every_package():
    """The list in pyproject.toml is written by hand."""
    listed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(path.parent.relative_to(CHECKOUT).parts)
        for path in (CHECKOUT / "openmm_mlbench").rglob("__init__.py")
        if "_assets" not in path.parts
    }
    assert set(listed) == there
    assert len(listed) == len(there)


def test_a_wheel_has_what_is_no_python():
    """Recipes and templates: files in a package's folder that none of its patterns names would stay behind."""
    patterns = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {
        path
        for package, globs in patterns.items()
        for pattern in globs
        for path in CHECKOUT.joinpath(*package.split(".")).glob(pattern)
    }
    there = {
        path
        for path in (CHECKOUT / "openmm_mlbench").rglob("*")
        if path.is_file() and path.suffix != ".py" and not {"_assets", "__pycache__"} & set(path.parts)
    }
    assert there == carried
    assert any(path.name == "schnet.yaml" for path in there)


def test_a_wheel_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path / "openmm_mlbench")
    inside = tmp_path / "openmm_mlbench" / "_assets"
    for kind in KINDS:
        (tmp_path / kind).mkdir()
    assert asset_root() == tmp_path
    for kind in KINDS:
        (inside / kind).mkdir(parents=True)
    assert asset_root() == inside


def test_a_torn_installation_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path / "openmm_mlbench")
    (tmp_path / "systems").mkdir()
    with pytest.raises(MLBenchError, match="reinstall the package"):
        asset_root()


@pytest.mark.parametrize(
    "parts", [("..", "pyproject.toml"), ("/etc/passwd",), ("ethanol", "..", "..", "README.md")]
)
def test_names_cannot_leave_their_folder(parts):
    with pytest.raises(MLBenchError, match="not the name of anything in systems/"):
        asset_path("systems", *parts)


def test_only_known_kinds():
    with pytest.raises(MLBenchError, match="not the name"):
        asset_path("openmm_mlbench", "cli.py")
