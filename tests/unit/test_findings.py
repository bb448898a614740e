"""docs/findings.md says what the committed runs say, and every link leads to a file."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "findings.md"
RUNS = ROOT / "benchmarks" / "results" / "runs"


@pytest.fixture(scope="module")
def findings():
    spec = importlib.util.spec_from_file_location("findings", ROOT / "benchmarks" / "findings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(findings):
    return findings.collect([RUNS]).runs


def test_the_page_is_up_to_date(findings, runs):
    text = PAGE.read_text(encoding="utf-8")
    assert findings.render_all(text, runs, PAGE) == text, "run python benchmarks/findings.py"


def test_a_changed_number_is_noticed(findings, runs):
    text = PAGE.read_text(encoding="utf-8")
    stale = text.replace("15.49", "15.50", 1)
    assert stale != text
    assert findings.render_all(stale, runs, PAGE) == text


def test_every_link_leads_to_a_file():
    places = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert sum(place.endswith("metrics.json") for place in places) >= 2
    for place in places:
        assert (PAGE.parent / place).exists(), place


def test_every_run_has_its_record_and_no_trajectory():
    for folder in RUNS.iterdir():
        names = {path.name for path in folder.iterdir()}
        assert {"run.json", "metrics.json"} <= names, folder
        assert not any(name.endswith(".dcd") for name in names), folder


def test_numbers_are_those_of_the_metrics(findings, runs):
    """One cell by hand: the h(r) MAE of SchNet on ethanol."""
    metrics = json.loads((RUNS / "ethanol-schnet" / "metrics.json").read_text())
    (result,) = [
        result
        for item in metrics["measurements"]
        for result in item["results"]
        if result["name"] == "h_r_mae"
    ]
    row = next(
        line
        for line in findings.runs_table(runs, PAGE).splitlines()
        if "runs/ethanol-schnet/metrics.json" in line
    )
    assert f"{result['value']:.4f} ± {result['stderr']:.4f} (floor {result['floor']:.4f})" in row
    assert "≥ 300 ps, 5 of 5 unbroken" in row


def test_what_is_cut_off_is_a_lower_bound(findings, runs):
    row = next(line for line in findings.runs_table(runs, PAGE).splitlines() if "ethanol-langevin |" in line)
    assert "at least 60.0 ps (censored), 2 of 2 unbroken" in row
    assert "shorter than the protocol" in row


def test_only_what_is_cut_off_is_not_compared(findings, runs):
    """Where every replica broke, the time is known, however short the runs were asked to be."""
    lines = [line for line in findings.differences_table(runs, PAGE).splitlines() if "| Stability |" in line]
    cut = {line.split(" | ")[0].strip("| "): "ours is cut off" in line for line in lines}
    assert (cut["SchNet, lips"], cut["DeepPot-SE, lips"]) == (True, False)
    broken = next(line for line in lines if line.startswith("| SchNet, water-1k"))
    assert "6.9 standard errors, differs" in broken
    # A bound above the paper's mean says something, one below it nothing.
    longer = next(line for line in lines if line.startswith("| DimeNet, 2 \N{MULTIPLICATION SIGN} 100 ps"))
    assert "ours is cut off, and already longer by" in longer
    shorter = next(line for line in lines if line.startswith("| GemNet-T"))
    assert "ours is cut off |" in shorter


def test_the_papers_table_has_all_its_numbers(findings):
    lines = findings.paper_ranks_table([], PAGE).splitlines()[2:]
    # Two of each of four molecules, five of each of three sizes of water, three each of the other two.
    assert len(lines) == 4 * 2 + 3 * 5 + 3 + 3
    decided = [line for line in lines if "a lower force error goes with" in line]
    assert [line.split(" | ")[0].strip("| ") for line in decided] == ["ethanol", "lips"]
