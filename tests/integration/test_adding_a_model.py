"""docs/adding-a-model.md, followed to the word: its network passes the contract, trains, and is exported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding-a-model.md"

# What a reader does by hand: two files beside the others', two lines in their literals.
FOLLOW = """
import sys
sys.path[:0] = [{folder!r}, {tests!r}]
import fresh_models
from openmm_mlbench.models.registry import ARCHITECTURES
from pathlib import Path
from openmm_mlbench.training import recipe_files
from wacsf import WACSF

ARCHITECTURES.update({{{registry}}})
recipe_files.FOLDER = Path({folder!r})
fresh_models.TINY.update({{{tiny}}})
"""
CONTRACT = """
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-n0", "-k", "wacsf", *{files!r}]))
"""
COMMANDS = """
from openmm_mlbench.cli import main
for arguments in {commands!r}:
    try:
        main(arguments)
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"{{arguments}}: {{stop.code}}")
"""


def block(mark):
    """The code after a mark of the page."""
    (code,) = re.findall(
        rf"<!-- {re.escape(mark)} -->\n```(?:python|yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    return code


@pytest.fixture(scope="module")
def follow(tmp_path_factory):
    """Runs more code after the steps of the page, in a process of its own."""
    folder = tmp_path_factory.mktemp("network")
    for name in ("wacsf.py", "wacsf.yaml"):
        (folder / name).write_text(block(f"file: {name}"))
    steps = FOLLOW.format(
        folder=str(folder),
        tests=str(ROOT / "tests"),
        **{name: block(f"line: {name}") for name in ("registry", "tiny")},
    )

    def run(code):
        return subprocess.run(
            [sys.executable, "-c", steps + code], capture_output=True, text=True, check=False, cwd=ROOT
        )

    return run


def test_the_network_passes_the_contract(follow):
    files = ["tests/physics/test_symmetries.py", "tests/integration/test_export.py"]
    answer = follow(CONTRACT.format(files=files))
    assert answer.returncode == 0, answer.stdout
    passed = re.search(r"(\d+) passed", answer.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= 20, answer.stdout


def test_the_commands_of_the_page_run(follow, tmp_path):
    train = [
        "train",
        "wacsf",
        "ethanol-gfn2",
        "--epochs",
        "2",
        "--train-frames",
        "20",
        "--validation-frames",
        "5",
    ]
    commands = [
        [*train, "--test-frames", "5", "-o", str(tmp_path / "training")],
        ["export", str(tmp_path / "training" / "best.pt"), "-o", str(tmp_path / "wacsf.pt")],
        ["check", str(tmp_path / "wacsf.pt")],
    ]
    answer = follow(COMMANDS.format(commands=commands))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert (tmp_path / "wacsf.pt").is_file()
    words = PAGE.read_text()
    assert all(f"openmm-mlbench {command} " in words for command in ("train", "export", "check", "simulate"))


def test_a_bias_after_the_cutoff_fails_the_contract(follow, tmp_path_factory):
    """The mistake that the page warns of is found."""
    folder = tmp_path_factory.mktemp("wrong")
    code = block("file: wacsf.py")
    line = "        radial = radial * cosine_cutoff(distances, self.cutoff).unsqueeze(1)\n"
    assert line in code
    (folder / "wrong.py").write_text(code.replace(line, "        radial = radial + 0.1\n"))
    answer = follow(
        f"sys.path.insert(0, {str(folder)!r})\nfrom wrong import WACSF as Wrong\nARCHITECTURES['wacsf'] = Wrong\n"
        + CONTRACT.format(files=["tests/physics/test_symmetries.py"])
    )
    assert answer.returncode == 1, answer.stdout
    assert "failed" in answer.stdout
