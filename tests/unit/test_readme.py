"""The README says what benchmarks/results/ says, and its links lead somewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "render_readme.py"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TIMES = {"wall_us_min": 500.0, "wall_us_median": 800.0}
SPEED = {
    "command": "python benchmarks/speed.py",
    "commit": "0123456789abcdef-dirty",
    "date": "2026-01-02",
    "machine": "a machine",
    "models": [
        {
            "id": "ethanol/schnet",
            "variants": dict.fromkeys(
                [
                    *("module, autograd", "module, ahead-of-time"),
                    *("OpenMM, autograd", "OpenMM, ahead-of-time", "ASE"),
                ],
                TIMES,
            ),
        }
    ],
}


def render(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_tables_are_those_of_the_results():
    answer = render("--check")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path):
    record = json.loads(path.read_text())
    assert all(record[key] for key in ("command", "commit", "date", "machine"))


def test_a_changed_number_is_found(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    (results / "speed.json").write_text(json.dumps(SPEED))
    readme.write_text("before\n<!-- table: speed -->\nold\n<!-- /table -->\nafter\n")
    places = ("--pages", readme, "--results", results)
    assert render("--check", *places).returncode == 1
    assert render(*places).returncode == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- /table -->\nafter\n")
    assert "| `ethanol/schnet` | 2,000 (1,250) |" in text
    assert "commit 0123456789ab-dirty, 2026-01-02, a machine" in text
    assert render("--check", *places).returncode == 0
    readme.write_text(text.replace("2,000", "2,001", 1))
    answer = render("--check", *places)
    assert answer.returncode == 1
    assert "make readme" in answer.stderr


PEERS = {
    "command": "make peers-test",
    "commit": "0123456789abcdef",
    "date": "2026-01-02",
    "machine": "a machine",
    "comparisons": {
        name: {
            "ours": name,
            "theirs": "their.Network",
            "kind": kind,
            "versions": {"torch": "2.9.1", "theirs": "1.0"},
            "systems": "ethanol",
            "dtype": "float64",
            "energy": 1.6e-14,
            "forces": 0.0,
            "tolerance": 1e-5,
            "note": "",
        }
        for name, kind in (("schnet", "weights"), ("import --as mace", "import"))
    },
}


def test_comparisons_with_other_packages_are_a_table(tmp_path):
    (tmp_path / "peers.json").write_text(json.dumps(PEERS))
    pages = [tmp_path / "a.md", tmp_path / "b.md"]
    for page in pages:
        page.write_text("<!-- table: peers -->\n<!-- /table -->\n")
    assert render("--pages", *pages, "--results", tmp_path).returncode == 0
    rows = pages[1].read_text().splitlines()
    numbers = "| ethanol | 2e-14 | 0e+00 | float64 | torch 2.9.1, theirs 1.0 |"
    assert f"| `schnet`, `their.Network` | weights copied across {numbers}" in rows
    assert f"| `their.Network` | imported model {numbers}" in rows
    assert pages[0].read_text() == pages[1].read_text()


def test_what_was_not_measured_is_not_made_up(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: speed -->\n1,000,000\n<!-- /table -->\n")
    assert render("--pages", readme, "--results", tmp_path).returncode == 0
    assert readme.read_text() == "<!-- table: speed -->\n*Not measured yet.*\n<!-- /table -->\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link
