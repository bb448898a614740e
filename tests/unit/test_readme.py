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
TIMES = {"wall_us_min": 500.0, "wall_us_median": 800.0, "process_us_min": 400.0}
ENTRY = {
    "model": "ethanol/schnet",
    "system": "ethanol",
    "n_atoms": 9,
    "weights": "trained",
    "platform": "Reference",
    "variants": dict.fromkeys(
        ["network", "torchforce", "torchforce, autograd", "pythonforce", "ase", "engine"], TIMES
    ),
    "operators": {"executed": 212},
    "batching": {"gain": None, "reason": "not tried"},
    "derived": {
        "steps_per_second": 2000.0,
        "engine_us": 41.0,
        "engine_fraction": 0.01,
        "busy": 1.6,
        "gain_over_autograd": 1.9,
        "gain_over_ase": 1.4,
        "gain_over_ase_autograd": 1.6,
        "gain_of_pythonforce": 1.0,
    },
}
SPEED = {
    "command": "python benchmarks/speed.py",
    "commit": "0123456789abcdef-dirty",
    "date": "2026-01-02",
    "machine": "a machine",
    "entries": [ENTRY, {**ENTRY, "model": "schnet", "weights": "fresh"}],
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
    assert "| `ethanol/schnet` | 400 | 400 |" in text
    assert "| 2,000 |" in text
    # Fresh weights are no model of anybody's.
    assert "`schnet`" not in text
    assert "commit 0123456789ab-dirty, 2026-01-02, a machine" in text
    assert render("--check", *places).returncode == 0
    readme.write_text(text.replace("2,000", "2,001", 1))
    answer = render("--check", *places)
    assert answer.returncode == 1
    assert "make readme" in answer.stderr


def test_targets_are_met_or_not_or_not_measured(tmp_path):
    (tmp_path / "speed.json").write_text(json.dumps(SPEED))
    page = tmp_path / "speed.md"
    page.write_text(
        "<!-- table: speed-targets -->\n<!-- /table -->\n<!-- table: speed-loops -->\n<!-- /table -->\n"
    )
    assert render("--pages", page, "--results", tmp_path).returncode == 0
    rows = page.read_text().splitlines()
    assert "| Engine per step on Reference, us (largest of all) | at most 40 | 41.00 | **no** |" in rows
    name = "| schnet, ethanol: over an ASE loop that calls our own exported module"
    assert f"{name} | at least 1.5 | 1.40 | **no** |" in rows
    name = "| schnet, ethanol: over an ASE loop with the same weights in eager PyTorch and run-time autograd"
    assert f"{name} | at least 1.5 | 1.60 | yes |" in rows
    assert "| schnet, ethanol: over scripted autograd | at least 1.5 | 1.90 | yes |" in rows
    assert "| schnet, ethanol: 5 replicas over one, 2 cores | at least 2 | not measured |  |" in rows
    assert "| GPU: schnet, aspirin: steps per second | at least 2000 | not measured |  |" in rows
    assert any(row.startswith("| `schnet` | ethanol (9) | Reference | 400 |") for row in rows)


def test_other_packages_profiles_and_growth_are_tables(tmp_path):
    origin = {key: SPEED[key] for key in ("command", "commit", "date", "machine")}
    head = {"model": "schnet", "package": "theirs 1.0", "system": "ethanol", "n_atoms": 9}
    timings = {"ours": {"process_us_min": 500.0}, "theirs": {"process_us_min": 1250.0}}
    refused = {**head, "model": "dimenet", "why": "knows no cells"}
    files = {
        "peers_speed": {"entries": [{**head, "timings": timings}, refused]},
        "profile": {
            "profiles": [
                {
                    "model": "schnet",
                    "system": "ethanol",
                    "executed": 212,
                    "computing": 190,
                    "operators": {"aten.mm": {"share": 0.25, "calls": 40}},
                }
            ]
        },
        "scaling": {
            "systems": {"schnet": {"n_atoms": [192, 1536], "exponent": 1.2, "memory_exponent_from_768": 1.0}}
        },
    }
    molecules = [
        {"molecule": name, "n_atoms": n, "us": {"all pairs": 5e3 * n, "within the cutoff": 7e3 * n}}
        for name, n in (("C3H8", 11), ("C16H34", 50))
    ]
    files["all-pairs"] = {"networks": [{"model": "nequip", "all_pairs_up_to": 12, "molecules": molecules}]}
    for name, record in files.items():
        (tmp_path / f"{name.replace('-', '_')}.json").write_text(json.dumps({**origin, **record}))
    page = tmp_path / "speed.md"
    names = ("speed-peers", "speed-profile", "scaling", "all-pairs")
    page.write_text("".join(f"<!-- table: {name} -->\n<!-- /table -->\n" for name in names))
    assert render("--pages", page, "--results", tmp_path).returncode == 0
    rows = page.read_text().splitlines()
    assert "| `schnet` | theirs 1.0 | ethanol (9) | 500 | 1,250 | 2.50 |" in rows
    assert any(row.startswith("| `dimenet` |") and row.endswith("| knows no cells |") for row in rows)
    assert "| `schnet` | ethanol | 212 | 190 | mm 25 % (40) |" in rows
    assert "| `schnet` | 192 to 1,536 | 1.20 | **no** | 1.00 |" in rows
    assert "| Network | All pairs up to | C3H8 (11) | C16H34 (50) |" in rows
    assert "| `nequip` | 12 | 55.0 / 77.0 | 250 / 350 |" in rows


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
