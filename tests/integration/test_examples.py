"""The programs in examples/ run at toy length, and the Python in README.md and docs/ as it is printed."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A few frames of each, and what must be printed of them.
EXAMPLES = {
    "molecule.py": (
        ["--length", "0.1", "--replicas", "1"],
        r"(?s)schnet.*h_r_mae: .*deeppot-se.*T_vib: .*report.html",
    ),
    "water.py": (["--length", "0.1", "--replicas", "1"], r"(?s)spcfw.*spcfw-mdsim.*area between them \d"),
    "alanine_dipeptide.py": (
        ["--length", "4", "--replicas", "2"],
        r"(?s)2 of 2 runs finished.*F\(phi\): .*F\(psi\): ",
    ),
    "lips.py": (["--length", "0.1", "--replicas", "1"], r"(?s)lips\n.*lips-nve\n.*drift: "),
    "own_molecule.py": (["--length", "0.1"], r"(?s)6 atoms, H4 C1 O1.*run 1: finished.*report.html"),
}
PAGES = ["README.md", "docs/installation.md", "docs/exported-model.md", "docs/importing.md"]


def test_no_page_is_forgotten():
    with_python = [
        page
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        if "```python" in page.read_text()
    ]
    # The blocks of one page are pieces of files; test_adding_a_model.py follows it.
    assert {str(page.relative_to(ROOT)) for page in with_python} == {*PAGES, "docs/adding-a-model.md"}


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    code = "\n".join(blocks)
    if page == "README.md":
        code += (
            "\nassert 'openmm-mlbench ethanol/schnet' in [force.getName() for force in system.getForces()]\n"
        )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_programs_run(name, tmp_path, monkeypatch, capsys):
    arguments, expected = EXAMPLES[name]
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    said = run(*arguments)
    assert re.search(expected, said)
    if name == "molecule.py":
        # It goes on with what is there.
        assert "stability: 0.1 ps" in said
        assert "stability: 0.15 ps" in run("--length", "0.15", "--replicas", "1")
