"""Imports point one way, and the halves of the package work without each other's heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "openmm_mlbench"
# What stands further right may import what stands further left.
ORDER = [
    *(
        "errors",
        "units",
        "cells",
        "dihedrals",
        "files",
        "hardware",
        "assets",
        "results",
        "paper",
        "topology",
        "console",
        "memory",
    ),
    *("reference_potentials", "data", "models", "training", "export", "forces", "potential"),
    *("ase_calculator", "openmmml_plugin", "metadynamics", "protocol_xml", "protocol"),
    *(
        "simulation",
        "openmm_export",
        "trajectory",
        "trajectory_sizes",
        "trajectory_stream",
        "metrics",
        "selections",
    ),
    *("references", "generation", "run_folder", "measuring", "measure", "analysis"),
    *(
        "report",
        "workflow",
        "speed",
        "listings",
        "protocol_template",
        "doctor",
        "campaign",
        "cli",
        "__main__",
    ),
]
MEASURING = set(ORDER[ORDER.index("trajectory") : ORDER.index("workflow")])
MAKING = {"models", "training", "export", "forces", "potential", "simulation"}


def modules():
    return {path.relative_to(PACKAGE).with_suffix("").parts: path for path in PACKAGE.rglob("*.py")}


def imported_anywhere(path):
    """Parts of this package that a file imports at its head or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openmm_mlbench."):
            yield node.module.split(".")[1]


def imported_at_module_level(path):
    """Parts of this package that a file imports when it is imported itself."""
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openmm_mlbench."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                name.name.split(".")[1] for name in node.names if name.name.startswith("openmm_mlbench.")
            )
        waiting += ast.iter_child_nodes(node)


def test_imports_point_left():
    for parts, path in modules().items():
        if parts[0] == "__init__":
            continue
        imported = set(imported_at_module_level(path)) - {parts[0]}
        wrong = {name for name in imported if ORDER.index(name) > ORDER.index(parts[0])}
        assert not wrong, f"{path} imports {wrong} at its head"


def test_nothing_imports_the_command_line():
    """Not even later: what commands share is in console."""
    for parts, path in modules().items():
        if parts[0] not in {"cli", "__main__"}:
            assert "cli" not in imported_anywhere(path), path


def test_measuring_knows_nothing_of_making():
    for parts, path in modules().items():
        if parts[0] in MEASURING:
            assert not MAKING & set(imported_at_module_level(path)), path


def test_every_module_has_its_place():
    homeless = {parts[0] for parts in modules()} - {"__init__"} - set(ORDER)
    assert not homeless, f"give {homeless} a place in ORDER"


def test_the_walk_sees_imports(tmp_path):
    (tmp_path / "x.py").write_text(
        "from openmm_mlbench.cli import app\ntry:\n    import openmm_mlbench.units\nexcept ImportError:\n    pass\n"
        "def lazy():\n    import openmm_mlbench.report\n"
    )
    assert set(imported_at_module_level(tmp_path / "x.py")) == {"cli", "units"}


BLOCK = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Refuse())
for name in {names!r}:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("chosen", "blocked"),
    [
        (MEASURING | {"errors", "results", "topology"}, {"torch", "openmm", "openmmtorch", "openmmml"}),
        ({"models", "training", "data"}, {"openmm", "openmmtorch", "openmmml", "mdtraj"}),
    ],
    ids=["measuring without engine", "training without OpenMM"],
)
def test_imports_without(chosen, blocked):
    names = sorted(
        ".".join(("openmm_mlbench", *parts)).removesuffix(".__init__")
        for parts in modules()
        if parts[0] in chosen
    )
    code = BLOCK.format(blocked=blocked, names=names)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
