"""The report page: what it says, and that a real browser draws it."""

import html
import json

import numpy as np
import pytest
from chromium import Browser, find_chromium

from openmm_mlbench.errors import ReportError
from openmm_mlbench.report import build_report
from openmm_mlbench.results import METRICS_FORMAT, METRICS_VERSION

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'`{{ 7*7 }}"
DATASET = "ethanol-gfn2"


def make_curve(x, y, x_unit, y_unit):
    return {"x": np.round(x, 4).tolist(), "y": np.round(y, 4).tolist(), "x_unit": x_unit, "y_unit": y_unit}


def make_result(name, unit, value=None, stderr=None, *, floor=None, status="ok", note=""):
    return {
        "name": name,
        "status": status,
        "unit": unit,
        "value": value,
        "stderr": stderr,
        "floor": floor,
        "n_frames": 200,
        "n_replicas": 2,
        "note": note,
    }


def make_measurement(observable, results, curves=None):
    return {
        "observable": observable,
        "mode": "paper",
        "definition": f"what {observable} means",
        "inputs": {},
        "results": results,
        "curves": curves or {},
    }


def make_metrics(model, *, seed=0, architecture="schnet"):
    """What the analysis of two replicas of 5 ps looks like, one of which broke."""
    rng = np.random.default_rng(seed)
    r = 0.01 + 0.02 * np.arange(500)
    reference = np.exp(-((r - 1.1) ** 2) / 0.005) + 0.5 * np.exp(-((r - 2.5) ** 2) / 0.3)
    measured = np.exp(-((r - 1.12) ** 2) / 0.005) + 0.5 * np.exp(-((r - 2.4) ** 2) / 0.3)
    times = [np.linspace(0.05, 5.0, 100), np.linspace(0.05, 2.0, 40)]
    bonds = [0.1 + 0.05 * rng.random(len(t)) for t in times]
    bonds[1][-1] = 7.3
    temperatures = [500 + 120 * rng.normal(size=len(t)) for t in times]
    temperature_curves = {}
    for i, (t, values) in enumerate(zip(times, temperatures, strict=True)):
        temperature_curves[f"replica {i}"] = make_curve(t, values, "ps", "K")
        since_start = np.cumsum(values) / np.arange(1, len(t) + 1)
        temperature_curves[f"mean replica {i}"] = make_curve(t, since_start, "ps", "K")
    h_r = {"reference": reference, "mean": measured, "difference": measured - reference}
    members = [
        {
            "index": i,
            "time_ps": float(t[-1]),
            "stable_ps": float(t[-1]),
            "broke": i == 1,
            "state": ("finished", "unstable")[i],
            "resume": ("none", "inexact")[i],
            "reason": ("", "bond O3-H9 is 8.260 A long")[i],
            "h_r_mae": 0.08,
            "temperature": 498.7,
            "T_rot": 301.2 + 300 * i,
            "T_vib": 540.1 - 40 * i,
            "steps_per_second": 512.3,
        }
        for i, t in enumerate(times)
    ]
    return {
        "format": METRICS_FORMAT,
        "format_version": METRICS_VERSION,
        "modes": ["paper"],
        "run": {
            "folder": f"runs/{architecture}",
            "model": model,
            "architecture": architecture,
            "dataset": DATASET,
            "level_of_theory": "GFN2-xTB",
            "n_train": 1000,
            "system": "ethanol",
            "protocol": "ethanol",
            "temperature_K": 500.0,
            "length_ps": 5.0,
            "full_length_ps": 300.0,
            "threshold_A": 0.5,
            "platform": "Reference",
            "seed": 0,
            "frames_from": "ethanol-rmd17",
            "replicas": members,
            "reference": {"source": "300 ps of GFN2-xTB dynamics", "method": "Langevin"},
            "provenance": {"model": {"model": model}, "versions": {"openmm": "8.5.2"}},
        },
        "measurements": [
            make_measurement("force_mae", [make_result("force_mae", "meV/A", 33.2, 0.4)]),
            make_measurement(
                "stability",
                [
                    make_result("stability", "ps", 3.5, 1.5, status="unstable", note="1 of 2 replicas broke"),
                    make_result("n_finished", "replicas", 1.0),
                ],
                {f"replica {i}": make_curve(times[i], bonds[i], "ps", "A") for i in range(2)},
            ),
            make_measurement(
                "h_r_mae",
                [make_result("h_r_mae", "1", 0.083, 0.004, floor=0.061)],
                {name: make_curve(r, y, "A", "1/A") for name, y in h_r.items()},
            ),
            make_measurement(
                "temperature",
                [
                    make_result("temperature", "K", 498.7, 3.1),
                    make_result("T_rot", "K", status="too_short", note="no replica has a value"),
                    make_result("T_vib", "K", 520.0, 20.0),
                ],
                temperature_curves,
            ),
            make_measurement("steps_per_second", [make_result("steps_per_second", "1/s", 512.3, 12.0)]),
        ],
    }


@pytest.fixture
def runs(tmp_path):
    """Two analyzed runs; the name of the second model is hostile."""
    folders = []
    for name, model, architecture in (("a", f"{DATASET}/schnet", "schnet"), ("b", HOSTILE, "deeppot-se")):
        (tmp_path / name).mkdir()
        metrics = make_metrics(model, architecture=architecture)
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        folders.append(tmp_path / name)
    return folders


@pytest.fixture
def page(runs, tmp_path):
    return build_report(runs, tmp_path / "report.html")


def test_page_holds_everything_once(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<script>/**\n* plotly.js") == 1
    for expected in (
        "498.7", "± 3.1", "floor 0.0610", "1 of 2 finished", "unstable", "too short", "± 47",
        "MD17 (original labels), 9,500 training frames", "data: other labels, fewer training frames; length: shorter, fewer runs", "standard deviations over its simulations",
        "300 ps of GFN2-xTB dynamics", "what h_r_mae means", "started from ethanol-rmd17 frames", "resumed inexactly", "bond O3-H9 is 8.260 A long",
        "openmm-mlbench simulate ethanol --model ethanol-gfn2/schnet --replicas 2 --length 5",
    ):  # fmt: skip
        assert expected in text, expected


def test_free_energies_are_drawn_and_own_structures_are_repeated_from_their_file(tmp_path):
    metrics = make_metrics("mine", architecture=None)
    metrics["run"] |= {"protocol": "dimer", "provenance": {"protocol": {"structure": "dimer.pdb"}}}
    angles, energies = [-np.pi, 0.0], [0.0, 5.0]
    names = ("F_phi replica 0", "F_phi replica 1", "reference F_phi")
    curves = {name: make_curve(angles, energies, "rad", "kJ/mol") for name in names}
    metrics["measurements"].append(
        make_measurement("free_energy", [make_result("F_phi_mae", "kJ/mol rad", 5.0)], curves)
    )
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = build_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Free energy along φ, data set {DATASET}" in text
    assert "Free energy along ψ" not in text
    assert "openmm-mlbench simulate dimer.xml --model mine" in text


def test_every_option_that_decided_a_run_is_repeated(tmp_path):
    biased = make_metrics("amber03-obc", architecture=None)
    biased["modes"] = ["paper", "mdsim"]
    biased["run"] |= {
        "protocol": "alanine-dipeptide-gentle",
        "folder": "shared hills",
        "platform": "CPU",
        "n_replicas": 4,
        "provenance": {
            "protocol": {"structure": None, "file": None, "variant": "gentle"},
            "platform": {"name": "CPU", "properties": {"Threads": "2"}},
            "metadynamics": {"backend": "plumed", "walkers": "shared"},
        },
    }
    own = make_metrics("mine", architecture=None)
    own["run"] |= {
        "protocol": "box-npt",
        "provenance": {"protocol": {"structure": "box.pdb", "file": "box.xml", "variant": "npt"}},
    }
    for name, metrics in (("a", biased), ("b", own)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    text = build_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html").read_text()
    repeat = html.unescape(text[text.index("To repeat them") :].split("<code>")[1].split("</code>")[0])
    assert repeat.splitlines() == [
        (
            "openmm-mlbench simulate alanine-dipeptide-gentle --model amber03-obc --replicas 4 --length 5 --platform CPU "
            "--threads 2 --seed 0 --metadynamics plumed --walkers shared --jobs 4 -o 'shared hills'"
        ),
        (
            "openmm-mlbench simulate box.xml --variant npt --model mine --replicas 2 --length 5 --platform Reference "
            "--seed 0 -o runs/None"
        ),
        "openmm-mlbench analyze 'shared hills' --mode both",
        "openmm-mlbench analyze runs/None --mode paper",
        "openmm-mlbench report 'shared hills' runs/None -o report.html",
    ]


def test_every_number_is_on_the_page(page):
    text = html.unescape(page.read_text(encoding="utf-8"))
    for name in (
        "force_mae",
        "stability",
        "n_finished",
        "h_r_mae",
        "temperature",
        "T_vib",
        "steps_per_second",
    ):
        assert f'<tr><th scope="row">{name}</th>' in text


def test_runs_of_one_model_are_told_apart_by_their_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        metrics = make_metrics("mine", architecture=None)
        metrics["run"]["folder"] = name
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    text = build_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    assert "Bonds of mine (a)" in text
    assert "Bonds of mine (b)" in text
    assert "simulate ethanol --model mine --replicas" in text


def test_hostile_names_are_text(page):
    text = page.read_text(encoding="utf-8")
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in text


def test_metrics_files_and_folders_are_alike(runs, tmp_path):
    one = build_report([runs[0]], tmp_path / "one.html").read_text()
    other = build_report([runs[0] / "metrics.json"], tmp_path / "sub" / "one.html").read_text()
    assert one == other


def test_a_run_without_curves_or_reference_is_shown(tmp_path):
    metrics = make_metrics("lonely", architecture=None)
    metrics["run"]["reference"] = None
    for measurement in metrics["measurements"]:
        measurement["curves"] = {}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = build_report([tmp_path], tmp_path / "report.html").read_text()
    assert "No curve was measured." in text


def test_what_cannot_be_reported(runs, tmp_path):
    with pytest.raises(ReportError, match="no runs to report on"):
        build_report([], tmp_path / "report.html")
    with pytest.raises(ReportError, match=r"nowhere: no such folder or file; give a run folder"):
        build_report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(ReportError, match=r"holds no run; give a folder that"):
        build_report([tmp_path], tmp_path / "report.html")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ReportError, match=r"was not analyzed; run `openmm-mlbench analyze .*/run`"):
        build_report([tmp_path / "run"], tmp_path / "report.html")
    with pytest.raises(ReportError, match="is a folder; give the name"):
        build_report(runs, tmp_path)
    (runs[0] / "metrics.json").write_text("{")
    with pytest.raises(ReportError, match="not valid JSON"):
        build_report(runs, tmp_path / "report.html")
    old = make_metrics("x")
    del old["format_version"]
    (runs[0] / "metrics.json").write_text(json.dumps(old))
    with pytest.raises(ReportError, match=r"written by another version .* run `openmm-mlbench analyze"):
        build_report(runs, tmp_path / "report.html")
    version = {"format_version": METRICS_VERSION}
    for damaged in (
        "[]",
        json.dumps({"run": {}, "measurements": []} | version),
        json.dumps({"run": make_metrics("x")["run"]} | version),
    ):
        (runs[0] / "metrics.json").write_text(damaged)
        with pytest.raises(ReportError, match="not the metrics of a run"):
            build_report(runs, tmp_path / "report.html")
    for key, value in (("replicas", [{"index": 0}]), ("replicas", 3), ("length_ps", "long")):
        metrics = make_metrics("x")
        metrics["run"][key] = value
        (runs[0] / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(ReportError, match=r"cannot be shown .* analyze the runs again"):
            build_report(runs, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine")
FIGURES = """[...document.querySelectorAll('figure')].map(figure => {
  const plot = figure.querySelector('.js-plotly-plot .main-svg');
  const box = plot ? plot.getBoundingClientRect() : {width: 0, height: 0, right: 0};
  const lines = [...figure.querySelectorAll('.scatterlayer .js-line')].map(line => line.getTotalLength());
  return {width: box.width, height: box.height, right: box.right, lines: lines};
})"""


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_browser_draws_every_figure(page, tmp_path, width):
    with Browser(find_chromium(), tmp_path / "profile") as browser:
        browser.open(page, width)
        figures = browser.evaluate(FIGURES)
        assert browser.complaints == []
        assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
        assert browser.evaluate("window.hacked") is None
        # h(r) of the data set; bonds and temperature of each of two models.
        assert len(figures) == 5
        for figure in figures:
            assert figure["width"] > min(300, width - 100)
            assert figure["height"] > 250
            assert figure["right"] <= width
            assert len(figure["lines"]) >= 2
            assert min(figure["lines"]) > 10
        # Nothing sticks out of the page; a table that is too wide scrolls in its own box.
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        box, table = browser.evaluate(
            "[document.querySelector('.scroll').clientWidth, document.querySelector('table.leaderboard').offsetWidth]"
        )
        assert (table > box) == (width == 400)
        names = browser.evaluate("[...document.querySelectorAll('tr.ours th')].map(cell => cell.innerText)")
        assert any(HOSTILE in name for name in names)
        legends = browser.evaluate(
            "[...document.querySelectorAll('.legendtext')].map(text => text.textContent)"
        )
        assert any("window.hacked" in legend for legend in legends)


@needs_browser
def test_browser_check_notices_a_broken_page(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(
        text.replace("Plotly.newPlot", "Plotly.noPlot", 1).replace(
            "<h1>", '<img src="http://x.invalid/"><h1>'
        )
    )
    with Browser(find_chromium(), tmp_path / "profile") as browser:
        browser.open(broken, 1280)
        complaints = " ".join(browser.complaints)
        assert "noPlot" in complaints
        # The page itself forbids everything from outside.
        assert "Content Security Policy" in complaints
        assert browser.evaluate(FIGURES)[0]["height"] == 0
