"""The report page: what it says, and that a real browser draws it."""

import csv
import html
import io
import json
import re

import numpy as np
import pytest
from chromium import Browser, find_chromium

from openmm_mlbench.errors import ReportError
from openmm_mlbench.report import build_report, gaps
from openmm_mlbench.report.gallery import SECTIONS
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


def write_runs(folder):
    """Two analyzed runs; the name of the second model is hostile."""
    folders = []
    for name, model, architecture in (("a", f"{DATASET}/schnet", "schnet"), ("b", HOSTILE, "deeppot-se")):
        (folder / name).mkdir()
        metrics = make_metrics(model, architecture=architecture)
        # The second is the more accurate one.
        metrics["measurements"][0]["results"][0]["value"] = {"a": 33.2, "b": 21.5}[name]
        (folder / name / "metrics.json").write_text(json.dumps(metrics))
        folders.append(folder / name)
    return folders


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Read by many, written by nobody."""
    folder = tmp_path_factory.mktemp("page")
    return build_report(write_runs(folder), folder / "report.html", tables=folder / "tables")


def test_page_holds_everything_once(page):
    text = page.read_text(encoding="utf-8")
    assert len(text) < 2_000_000
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
    assert f"{DATASET}: free energy along φ" in text
    assert "free energy along ψ" not in text
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


def test_metrics_files_folders_and_folders_of_runs_are_alike(runs, tmp_path):
    one = build_report(runs, tmp_path / "one.html").read_text()
    files = build_report([run / "metrics.json" for run in runs], tmp_path / "one.html").read_text()
    tree = build_report([tmp_path], tmp_path / "one.html").read_text()
    twice = build_report([tmp_path, runs[0]], tmp_path / "one.html").read_text()
    assert one == files == tree == twice


def test_what_cannot_be_shown_in_a_folder_of_runs_is_listed_and_costs_the_others_nothing(runs, tmp_path):
    (tmp_path / "campaign" / "c").mkdir(parents=True)
    (tmp_path / "campaign" / "c" / "run.json").write_text("{}")
    (runs[1] / "metrics.json").write_text("{")
    text = html.unescape(build_report([tmp_path], tmp_path / "report.html").read_text())
    assert "Runs that cannot be shown" in text
    assert "was not analyzed; run `openmm-mlbench analyze" in text
    assert "not valid JSON" in text
    assert f"{DATASET}/schnet" in text


def test_a_run_without_curves_or_reference_is_shown(tmp_path):
    metrics = make_metrics("lonely", architecture=None)
    metrics["run"]["reference"] = None
    for measurement in metrics["measurements"]:
        measurement["curves"] = {}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = build_report([tmp_path], tmp_path / "report.html").read_text()
    nothing = re.findall(r'<p class="nothing">(.*?)(?: <code>(.*?)</code>)?</p>', text)
    said = {html.unescape(why): html.unescape(command) for why, command in nothing}
    # Each section stands there, and says what it has nothing of and which command fills it.
    for heading in SECTIONS.values():
        assert f">{html.escape(heading)}</h2>" in text
    assert said["No run has a distribution of distances or an RDF."].startswith("openmm-mlbench analyze ")
    assert said["No replica collapsed."] == ""
    other = said["No data set has two models with a force error."]
    assert other.startswith("openmm-mlbench simulate ethanol --model ethanol-gfn2/deeppot-se -o ")
    assert " && openmm-mlbench analyze " in other
    assert (
        "openmm-mlbench simulate alanine-dipeptide "
        in said["No run has hills of metadynamics, which free energies are made of."]
    )


def test_a_section_with_something_says_nothing_of_the_kind(page):
    text = page.read_text(encoding="utf-8")
    assert "No run has a distribution of distances or an RDF." not in text
    assert "No data set has two models with a force error." not in text


def test_every_section_has_words_for_its_absence():
    assert set(gaps._EMPTY) == {*SECTIONS, "ranks", "label", "geometry"}


def test_what_cannot_be_reported(runs, tmp_path):
    with pytest.raises(ReportError, match="no runs to report on"):
        build_report([], tmp_path / "report.html")
    with pytest.raises(ReportError, match=r"nowhere: no such folder or file; give a run folder"):
        build_report([tmp_path / "nowhere"], tmp_path / "report.html")
    (tmp_path / "run").mkdir()
    with pytest.raises(ReportError, match=r"holds no run; give a folder that"):
        build_report([tmp_path / "run"], tmp_path / "report.html")
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ReportError, match=r"was not analyzed; run `openmm-mlbench analyze .*/run`"):
        build_report([tmp_path / "run"], tmp_path / "report.html")
    with pytest.raises(ReportError, match="is a folder; give the name"):
        build_report(runs, tmp_path)
    with pytest.raises(ReportError, match="is a file; give the name of a folder"):
        build_report(runs, tmp_path / "report.html", figures=runs[0] / "metrics.json")
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
  const box = figure.querySelector('svg.plot').getBoundingClientRect();
  const texts = [...figure.querySelectorAll('svg.plot text')].map(text => text.getBoundingClientRect());
  const lines = [...figure.querySelectorAll('svg.plot path[clip-path]')].map(line => line.getTotalLength());
  const size = texts.length ? Math.min(...texts.map(text => text.height)) : 0;
  const outside = texts.filter(t => t.left < box.left - 2 || t.right > box.right + 2 || t.bottom > box.bottom + 2);
  return {id: figure.id, width: box.width, height: box.height, right: box.right, texts: texts.length, size: size,
          outside: outside.length, lines: lines};
})"""
ROWS = "[...document.querySelectorAll('table.leaderboard tr.ours th[scope=row] a')].map(link => link.textContent)"
SHOWN = """[...document.querySelectorAll('table.leaderboard tr')].filter(row => row.offsetParent !== null)
  .map(row => row.className.split(' ')[0])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(find_chromium(), tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture
def opened(browser, page):
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page, 1280)
    return browser


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_browser_draws_every_figure(browser, page, width, theme):
    browser.complaints.clear()
    browser.requests.clear()
    scheme = [{"name": "prefers-color-scheme", "value": theme}]
    browser.send("Emulation.setEmulatedMedia", features=scheme)
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    figures = browser.evaluate(FIGURES)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.evaluate("window.hacked") is None
    names = {figure["id"] for figure in figures}
    # One Pareto plot, one comparison, two scatter plots, h(r); bonds and temperature of each of two models.
    assert len(figures) == len(names) == 9
    for figure in figures:
        assert figure["width"] > min(300, width - 100), figure
        assert figure["height"] > 200, figure
        assert figure["right"] <= width, figure
        assert figure["texts"] > 5, figure
        assert figure["outside"] == 0, figure
        # Small, but to be read.
        assert figure["size"] >= 9, figure
        assert len(figure["lines"]) >= 2, figure
    # Nothing sticks out of the page; a table that is too wide scrolls in its own box.
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    box, table = browser.evaluate(
        "[document.querySelector('.scroll:has(.leaderboard)').clientWidth, document.querySelector('table.leaderboard').offsetWidth]"
    )
    assert (table > box) or width == 1280
    headings = browser.evaluate(
        "[...document.querySelectorAll('th[scope=rowgroup] span')].map(span => span.getBoundingClientRect().right)"
    )
    assert len(headings) == 2
    assert max(headings) <= width
    names = browser.evaluate("[...document.querySelectorAll('tr.ours th')].map(cell => cell.innerText)")
    assert any(HOSTILE in name for name in names)
    ground, ink = browser.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg.plot text')).fill]"
    )
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")
    assert (ink == "rgb(27, 31, 36)") == (theme == "light")
    browser.send("Emulation.setEmulatedMedia", features=[])


@needs_browser
def test_browser_sorts(opened):
    """A click sorts what is of one kind, each with the paper's row beneath it; a second one turns it round."""
    assert opened.evaluate(ROWS) == [HOSTILE, "SchNet"]
    click = "[...document.querySelectorAll('table.leaderboard button.sort')].find(b => b.textContent === '{}').click()"
    opened.evaluate(click.format("Force MAE"))
    assert opened.evaluate(ROWS) == [HOSTILE, "SchNet"]
    opened.evaluate(click.format("Force MAE"))
    assert opened.evaluate(ROWS) == ["SchNet", HOSTILE]
    heading = "document.querySelector('table.leaderboard th[aria-sort]')"
    assert opened.evaluate(f"{heading}.getAttribute('aria-sort')") == "descending"
    below = opened.evaluate(
        "[...document.querySelectorAll('table.leaderboard tr.ours')].map(row => row.nextElementSibling.innerText.split('\\n')[0])"
    )
    assert [text.split(",")[0] for text in below] == ["SchNet", "DeepPot-SE"]
    # Gaps stay beneath them, under their own heading.
    kinds = opened.evaluate(
        "[...document.querySelectorAll('table.leaderboard tbody')].map(body => body.className)"
    )
    assert kinds == ["short", "gap"]
    opened.evaluate(click.format("Model"))
    assert opened.evaluate(ROWS) == [HOSTILE, "SchNet"]
    assert opened.complaints == []


@needs_browser
def test_browser_filters(opened):
    def choose(expression):
        opened.evaluate(
            f"(() => {{ const form = document.getElementById('filters'); {expression};"
            " form.dispatchEvent(new Event('input')); })()"
        )

    kinds = opened.evaluate(SHOWN)
    assert (kinds.count("ours"), kinds.count("paper"), kinds.count("gap")) == (2, 7, 5)
    choose("form.elements.paper.checked = false")
    assert "paper" not in opened.evaluate(SHOWN)
    choose("form.elements.gaps.checked = false")
    assert opened.evaluate(SHOWN) == ["", "level", "ours", "ours"]
    boxes = "[...form.querySelectorAll('input[name=model]')]"
    choose(f"{boxes}.forEach(box => {{ box.checked = box.value === 'schnet'; }})")
    assert opened.evaluate(SHOWN).count("ours") == 1
    assert opened.evaluate("document.getElementById('filters').elements.shown.value") == "1 of 2 runs shown"
    runs = opened.evaluate(
        "[...document.querySelectorAll('details.run')].filter(run => !run.hidden).map(run => run.id)"
    )
    assert runs == ["run-ethanol-gfn2-schnet"]
    # A heading over nothing goes too.
    choose(f"{boxes}.forEach(box => {{ box.checked = false; }})")
    assert opened.evaluate(SHOWN) == [""]
    assert opened.evaluate(
        "[...document.querySelectorAll('section.figures-of')].every(section => section.hidden)"
    )
    opened.evaluate("document.querySelector('#filters button[type=reset]').click()")
    opened.evaluate("new Promise(done => setTimeout(() => done(1), 50))")
    assert opened.evaluate(SHOWN).count("ours") == 2
    choose("form.elements.system.value = 'ethanol'")
    assert opened.evaluate(SHOWN).count("ours") == 2
    assert opened.complaints == []


@needs_browser
def test_browser_follows_a_point_to_its_run(opened):
    """Points of the Pareto plot and rows of the leaderboard lead to the run, which opens."""
    links = opened.evaluate(
        "[...document.querySelectorAll('#figure-pareto-ethanol-gfn2 a')].map(link => [link.getAttribute('href'), link.querySelector('title').textContent])"
    )
    assert [href for href, _ in links] == [
        "#run-ethanol-gfn2-schnet",
        "#run-ethanol-gfn2-x-script-window-hacked-1-script",
    ] or len(links) == 2
    href, said = links[0]
    assert "force MAE 33.2 meV/Å, 512 steps/s, stable for " in said
    assert "% of the first " in said
    opened.evaluate(f"location.hash = {href!r}")
    opened.evaluate("new Promise(done => setTimeout(() => done(1), 100))")
    assert opened.evaluate(f"document.querySelector({href!r}).open") is True
    assert opened.evaluate(f"Math.abs(document.querySelector({href!r}).getBoundingClientRect().top) < 900")
    missing = opened.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href')).filter(href => !document.querySelector(href))"
    )
    assert missing == []
    assert opened.complaints == []


@needs_browser
def test_browser_saves_tables(opened, page):
    """What the page saves is what the command writes."""
    opened.evaluate(
        "window.saved = {}; URL.createObjectURL = blob => { window.last = blob.text(); return 'blob:'; };"
        "HTMLAnchorElement.prototype.click = function () { window.saved[this.download] = window.last; }; 1"
    )
    opened.evaluate("document.querySelectorAll('.tools button').forEach(button => button.click())")
    names = opened.evaluate("Object.keys(window.saved)")
    assert {"leaderboard-ethanol.csv", "numbers.json", "rank-correlations.csv", "replicas.csv"} <= set(names)
    for name in names:
        saved = opened.evaluate(f"window.saved[{name!r}]")
        written = (page.parent / "tables" / name).read_text(encoding="utf-8")
        if name.endswith(".json"):
            assert json.loads(saved) == json.loads(written)
        else:
            rows = [list(csv.reader(io.StringIO(text))) for text in (saved, written)]
            assert len(rows[0]) == len(rows[1])
            for one, other in zip(*rows, strict=True):
                assert [same_field(*pair) for pair in zip(one, other, strict=True)] == [True] * len(one)
    assert opened.complaints == []


def same_field(one, other):
    """JavaScript writes 5.0 as 5 and True as true."""
    try:
        return float(one) == float(other)
    except ValueError:
        return one.lower() == other.lower()


@needs_browser
def test_browser_works_by_keyboard(opened):
    """Sort buttons, tables, figures' links and the switch of the theme can be reached and pressed."""
    focusable = opened.evaluate(
        "[...document.querySelectorAll('button, select, input, a[href], [tabindex=\"0\"], summary')].filter(e => e.tabIndex < 0).length"
    )
    assert focusable == 0
    unnamed = opened.evaluate(
        "[...document.querySelectorAll('svg.plot')].filter(svg => !(svg.getAttribute('aria-label') || '').length).length"
    )
    assert unnamed == 0
    opened.evaluate("document.getElementById('theme').focus()")
    for kind in ("keyDown", "keyUp"):
        opened.send(
            "Input.dispatchKeyEvent",
            type=kind,
            key="Enter",
            code="Enter",
            text="\r",
            windowsVirtualKeyCode=13,
        )
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"


@needs_browser
def test_browser_check_notices_a_broken_page(browser, page, tmp_path):
    text = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(
        text.replace('document.getElementById("tables")', 'document.getElementById("nothing")').replace(
            "<h1>", '<img src="http://x.invalid/"><h1>'
        )
    )
    browser.complaints.clear()
    browser.open(broken, 1280)
    complaints = " ".join(browser.complaints)
    assert "textContent" in complaints
    # The page itself forbids everything from outside.
    assert "Content Security Policy" in complaints


def test_tables_and_figures_are_written(runs, tmp_path):
    page = tmp_path / "report.html"
    first = build_report(runs, page, figures=tmp_path / "figures", tables=tmp_path / "tables").read_bytes()
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"pareto-ethanol-gfn2.png", "pareto-ethanol-gfn2.pdf", "h-r-ethanol-gfn2.pdf"} <= figures
    for path in (tmp_path / "figures").iterdir():
        head = path.read_bytes()[:5]
        assert head == (b"%PDF-" if path.suffix == ".pdf" else b"\x89PNG\r")
    rows = list(csv.DictReader((tmp_path / "tables" / "leaderboard-ethanol.csv").read_text().splitlines()))
    ours = [row for row in rows if row["kind"] == "ours"]
    assert [row["force_mae [meV/Å]"] for row in ours] == ["21.5", "33.2"]
    assert [row["covers"] for row in ours] == ["short", "short"]
    numbers = json.loads((tmp_path / "tables" / "numbers.json").read_text())["rows"]
    assert len(numbers) == 16
    assert next(row for row in numbers if row["result"] == "T_rot")["value"] is None
    # The same runs give the same bytes.
    assert build_report(runs, page, figures=tmp_path / "again").read_bytes() == first
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
