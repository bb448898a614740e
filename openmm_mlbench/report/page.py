"""The page itself: one file that needs no network."""

import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_mlbench import __version__, paper
from openmm_mlbench.errors import MLBenchError, ReportError
from openmm_mlbench.files import read_json, write_text
from openmm_mlbench.report.figures import (
    plot_bond_deviation,
    plot_collapse,
    plot_diffusion,
    plot_drifts,
    plot_free_energy,
    plot_h_r,
    plot_parity,
    plot_rdfs,
    plot_temperature,
)
from openmm_mlbench.report.table import (
    MISSING,
    Notes,
    columns_of,
    format_lengths,
    format_number,
    is_own_structure,
    make_rows,
    replica_columns_of,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

METRICS_FILE = "metrics.json"
_RUN_KEYS = ("model", "dataset", "protocol", "length_ps", "threshold_A", "replicas")


@dataclass(frozen=True, kw_only=True)
class DrawnFigure:
    """A figure's markup with the words around it."""

    title: str
    caption: str
    markup: str
    wide: bool


def build_report(sources: Sequence[str | os.PathLike[str]], out_html: str | os.PathLike[str]) -> Path:
    """Write one self-contained page about these runs.

    Args:
        sources: run folders that were analyzed, or their metrics.json files.
        out_html: the page; an existing one is replaced.

    Returns:
        The page's path.

    Raises:
        ReportError: nothing to show, a run without metrics, or a damaged file.
    """
    if not sources:
        raise ReportError("no runs to report on; give run folders or metrics.json files")
    runs = [read_metrics(source) for source in sources]
    out = Path(out_html)
    if out.is_dir():
        raise ReportError(f"{out}: is a folder; give the name of the page, such as {out / 'report.html'}")
    from jinja2 import TemplateError

    try:
        page = render(runs, out.name)
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        # Files of the right outline but with other contents: written by hand or by another version.
        raise ReportError(
            f"{', '.join(map(str, sources))}: cannot be shown ({error!r}); analyze the runs again"
        ) from error
    write_text(out, page)
    return out


def read_metrics(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The metrics of a run, checked as far as the page needs them.

    Raises:
        ReportError: the file is missing, damaged or of another shape.
    """
    path = Path(source)
    path = path / METRICS_FILE if path.is_dir() else path
    if not path.is_file():
        raise ReportError(
            f"{path}: no such file; run `openmm-mlbench analyze {shlex.quote(str(path.parent))}` first"
        )
    try:
        metrics = read_json(path)
    except MLBenchError as error:
        raise ReportError(str(error)) from error
    run = metrics.get("run") if isinstance(metrics, dict) else None
    lacking = [key for key in _RUN_KEYS if key not in run] if isinstance(run, dict) else ["run"]
    if lacking or not isinstance(metrics.get("measurements"), list):
        raise ReportError(
            f"{path}: not the metrics of a run (lacks {', '.join(lacking) or 'measurements'}); analyze the run again"
        )
    return dict(metrics)


def render(runs: list[dict[str, Any]], out_name: str) -> str:
    """The page as text."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: MISSING if value is None else format_number(value)
    repeat = _commands(runs, out_name)
    runs = _told_apart(runs)
    notes = Notes()
    rows = make_rows(runs, notes)
    return environment.get_template("report.html.j2").render(
        version=__version__,
        plotly_js=get_plotlyjs(),
        summary=_summary(runs),
        columns=columns_of(runs),
        rows=rows,
        notes=notes.texts,
        paper_stderr=paper.STDERR_TEXT if any(row.kind == "paper" for row in rows) else "",
        figures=_figures(runs),
        replica_columns=replica_columns_of(runs),
        replicas=[(metrics["run"]["model"], metrics["run"]["replicas"]) for metrics in runs],
        definitions=_definitions(runs),
        provenance=[_provenance(metrics) for metrics in runs],
        repeat=repeat,
    )


def _summary(runs: list[dict[str, Any]]) -> str:
    texts = []
    for protocol in dict.fromkeys(metrics["run"]["protocol"] for metrics in runs):
        of_protocol = [metrics["run"] for metrics in runs if metrics["run"]["protocol"] == protocol]
        lengths = dict.fromkeys(format_lengths(r["time_ps"] for r in run["replicas"]) for run in of_protocol)
        runs_text = "1 run" if len(of_protocol) == 1 else f"{len(of_protocol)} runs"
        kelvin = of_protocol[0].get("temperature_K")
        at = f" at {kelvin:g} K" if kelvin is not None else ""
        full = of_protocol[0].get("full_length_ps")
        short = any(run["length_ps"] < full for run in of_protocol) if full else False
        shorter = f" The full protocol is {full:g} ps per replica." if short else ""
        texts.append(
            f"{runs_text} of protocol {protocol}{at}; really simulated: {' and '.join(lengths)}.{shorter}"
        )
    return " ".join(texts)


def _figures(runs: list[dict[str, Any]]) -> list[DrawnFigure]:
    drawn: list[DrawnFigure] = []

    def add(figure: "Figure | None", title: str, caption: str, *, wide: bool = False) -> None:
        if figure is not None:
            markup = _markup(figure, f"figure-{len(drawn) + 1}")
            drawn.append(DrawnFigure(title=title, caption=caption, markup=markup, wide=wide))

    for dataset in dict.fromkeys(metrics["run"]["dataset"] for metrics in runs):
        group = [metrics for metrics in runs if metrics["run"]["dataset"] == dataset]
        source = next((m["run"]["reference"] for m in group if m["run"].get("reference")), None) or {}
        origin = f" Reference: {source['source']}" if source.get("source") else ""
        add(
            plot_h_r(group),
            f"Interatomic distances, data set {dataset}",
            f"h(r) over the stable part, mean over replicas; below, its difference from the reference.{origin}",
            wide=True,
        )
        for label, figure in plot_rdfs(group).items():
            pair = "all atoms" if label == "all" else label
            add(
                figure,
                f"RDF of {pair}, data set {dataset}",
                "g(r) over the stable part, mean over replicas; below, its difference from the reference.",
            )
        add(
            plot_diffusion(group),
            f"Mean squared displacement, data set {dataset}",
            "Of the atoms whose diffusivity is measured, drift removed. Its slope is 6 D.",
        )
        for angle, figure in plot_free_energy(group).items():
            add(
                figure,
                f"Free energy along {angle}, data set {dataset}",
                "A line for each replica, each with its minimum at 0. A bin that no hill reached has the highest "
                "value, a lower bound.",
            )
        add(
            plot_parity(group),
            f"Forces on test frames of {dataset}",
            "Components of predicted against true forces, at most 2,000 points of each model.",
        )
    for metrics in runs:
        model = metrics["run"]["model"]
        rdf = metrics["run"].get("criterion") == "rdf"
        what = (
            "Deviation of the RDFs of each window from the reference, the worst pair"
            if rdf
            else "Largest deviation of any bond from its reference length"
        )
        add(
            plot_bond_deviation(metrics),
            f"{'RDFs against time' if rdf else 'Bonds'} of {model}",
            f"{what}, the largest value of each interval drawn. A replica is stable until it first crosses "
            "the dashed line.",
        )
        add(
            plot_collapse(metrics),
            f"How {model} collapsed",
            "Largest force on any atom: dots for frames, a line for every step around the first offending one, which "
            "is at 0.",
        )
        add(
            plot_drifts(metrics),
            f"Total energy of {model}",
            "Potential and kinetic energy per atom around their mean, without a thermostat: a conservative model keeps their sum.",
        )
        add(
            plot_temperature(metrics),
            f"Temperature of {model}",
            "Bold: mean since the start; faint: as logged. The temperature of few atoms fluctuates widely.",
        )
    return drawn


def _markup(figure: "Figure", name: str) -> str:
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=name,
            default_width="100%",
            default_height=f"{figure.layout.height}px",
            config={
                "responsive": True,
                "displaylogo": False,
                "modeBarButtons": [["resetScale2d", "toImage"]],
            },
        )
    )


def _definitions(runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys(
            (measurement["observable"], measurement["definition"])
            for metrics in runs
            for measurement in metrics["measurements"]
        )
    )


def _provenance(metrics: dict[str, Any]) -> tuple[str, str]:
    record = metrics["run"].get("provenance") or {}
    return str(metrics["run"]["model"]), json.dumps(record, indent=2, ensure_ascii=False)


def _protocol_word(run: dict[str, Any]) -> str:
    """The protocol as `simulate` takes it: by name, or the file that a run of one's own structure was begun with."""
    return f"{run['protocol']}.xml" if is_own_structure(run) else str(run["protocol"])


def _told_apart(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs with their folder behind the name of a model that comes more than once."""
    counts = Counter(metrics["run"]["model"] for metrics in runs)
    return [
        metrics
        | {"run": metrics["run"] | {"model": f"{metrics['run']['model']} ({metrics['run']['folder']})"}}
        if counts[metrics["run"]["model"]] > 1 and metrics["run"].get("folder")
        else metrics
        for metrics in runs
    ]


def _commands(runs: list[dict[str, Any]], out_name: str) -> str:
    """The command lines that make these numbers again, quoted for a shell."""
    lines, folders = [], []
    for metrics in runs:
        run = metrics["run"]
        folder = run.get("folder") or "run"
        folders.append(folder)
        words = ["openmm-mlbench", "simulate", _protocol_word(run), "--model", run["model"]]
        words += ["--replicas", str(len(run["replicas"])), "--length", f"{run['length_ps']:g}"]
        words += ["--platform", run["platform"]] if run.get("platform") else []
        words += ["--seed", str(run["seed"])] if run.get("seed") is not None else []
        lines.append(shlex.join([*map(str, words), "-o", folder]))
    lines.append(shlex.join(["openmm-mlbench", "analyze", *folders]))
    lines.append(shlex.join(["openmm-mlbench", "report", *folders, "-o", out_name]))
    return "\n".join(lines)
