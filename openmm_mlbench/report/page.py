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
    plot_distributions,
    plot_drifts,
    plot_free_energy,
    plot_h_r,
    plot_parity,
    plot_rdfs,
    plot_temperature,
)
from openmm_mlbench.report.table import (
    MISSING,
    MODES,
    Column,
    Heading,
    Notes,
    Row,
    columns_of,
    format_lengths,
    format_number,
    geometry_columns_of,
    is_own_structure,
    label_columns_of,
    make_rows,
    modes_of,
    plain_rows,
    replica_columns_of,
    systems_of,
)
from openmm_mlbench.results import METRICS_VERSION

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
    if not path.exists():
        raise ReportError(f"{path}: no such folder or file; give a run folder, or its {METRICS_FILE}")
    if path.is_dir() and not (path / METRICS_FILE).is_file():
        if not (path / "run.json").is_file():
            raise ReportError(f"{path}: holds no run; give a folder that `openmm-mlbench simulate` wrote")
        raise ReportError(
            f"{path}: was not analyzed; run `openmm-mlbench analyze {shlex.quote(str(path))}` first"
        )
    path = path / METRICS_FILE if path.is_dir() else path
    try:
        metrics = read_json(path)
    except MLBenchError as error:
        raise ReportError(str(error)) from error
    version = metrics.get("format_version") if isinstance(metrics, dict) else None
    if isinstance(metrics, dict) and "run" in metrics and version != METRICS_VERSION:
        raise ReportError(
            f"{path}: written by another version (format {version}, wanted {METRICS_VERSION}); "
            f"run `openmm-mlbench analyze {shlex.quote(str(path.parent))}` again"
        )
    run = metrics.get("run") if isinstance(metrics, dict) else None
    lacking = [key for key in _RUN_KEYS if key not in run] if isinstance(run, dict) else ["run"]
    if lacking or not isinstance(metrics.get("measurements"), list):
        raise ReportError(
            f"{path}: not the metrics of a run (lacks {', '.join(lacking) or 'measurements'}); analyze the run again"
        )
    return dict(metrics)


@dataclass(frozen=True, kw_only=True)
class Board:
    """The tables of one system: its leaderboard, errors on labelled frames and replicas.

    Args:
        title: of the system.
        columns: of the leaderboard, only what the system has.
        rows: ours, and the paper's beneath.
        label_columns: of the errors on labelled frames; none where there are no more than the leaderboard has.
        label_rows: ours.
        geometry_columns: of bonds, angles and dihedrals; none where nothing of these was asked for.
        geometry_rows: ours.
        has_paper: whether any row is the paper's.
        replica_columns: what any replica has a value for.
        replicas: model and replicas of each run.
    """

    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    label_columns: tuple[Column, ...]
    label_rows: list[Row]
    geometry_columns: tuple[Column, ...]
    geometry_rows: list[Row]
    has_paper: bool
    replica_columns: tuple[Heading, ...]
    replicas: list[tuple[str, list[dict[str, Any]]]]


def _board(title: str, runs: list[dict[str, Any]], notes: Notes) -> Board:
    rows = make_rows(runs, notes)
    label_columns, geometry_columns = label_columns_of(runs), geometry_columns_of(runs)
    return Board(
        title=title,
        columns=columns_of(runs),
        rows=rows,
        label_columns=label_columns,
        label_rows=plain_rows(runs, label_columns, notes),
        geometry_columns=geometry_columns,
        geometry_rows=plain_rows(runs, geometry_columns, notes),
        has_paper=any(row.kind == "paper" for row in rows),
        replica_columns=replica_columns_of(runs),
        replicas=[(metrics["run"]["model"], metrics["run"]["replicas"]) for metrics in runs],
    )


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
    boards = [_board(title, of_system, notes) for title, of_system in systems_of(runs).items()]
    return environment.get_template("report.html.j2").render(
        version=__version__,
        plotly_js=get_plotlyjs(),
        summary=_summary(runs),
        boards=boards,
        notes=notes.texts,
        modes=modes_of(runs),
        paper_stderr=paper.STDERR_TEXT if any(board.has_paper for board in boards) else "",
        figures=_figures(runs),
        definitions=_definitions(runs),
        every=[_every_number(metrics) for metrics in runs],
        provenance=[_provenance(metrics) for metrics in runs],
        repeat=repeat,
    )


def _every_number(metrics: dict[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """Model, and each result as printed: name, mode, value, floor, unit, status and note."""
    rows: list[tuple[str, ...]] = []
    for measurement in metrics["measurements"]:
        for result in measurement["results"]:
            value = (
                MISSING if result["value"] is None else format_number(result["value"], result.get("stderr"))
            )
            floor = MISSING if result.get("floor") is None else format_number(result["floor"])
            status = str(result["status"]).replace("_", " ")
            rows.append(
                (
                    str(result["name"]),
                    str(measurement["mode"]),
                    value,
                    floor,
                    str(result.get("unit", "")),
                    status,
                    str(result["note"]),
                )
            )
    return str(metrics["run"]["model"]), rows


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
        modes = modes_of(group)
        for mode in modes:
            of_mode = f", mode {mode}" if modes != MODES[:1] else ""
            for label, figure in plot_rdfs(group, mode).items():
                pair = "all atoms" if label == "all" else label
                add(
                    figure,
                    f"RDF of {pair}, data set {dataset}{of_mode}",
                    "g(r) over the stable part, mean over replicas; below, its difference from the reference of the "
                    "same mode.",
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
                "A line for each replica, each with its minimum at 0; of runs that are too short, as far as they came. "
                "A bin that no hill reached has the highest value, a lower bound.",
            )
        for observable, title in (
            ("bonds", "Bond lengths"),
            ("angles", "Bond angles"),
            ("dihedrals", "Dihedrals"),
        ):
            add(
                plot_distributions(group, observable),
                f"{title}, data set {dataset}",
                "Distributions over the stable part of all replicas, each scaled to its highest point; black: the frames of "
                "the data set.",
            )
        add(
            plot_parity(group, "force parity"),
            f"Forces on test frames of {dataset}",
            "Components of predicted against true forces, at most 2,000 points of each model.",
        )
        add(
            plot_parity(group, "energy parity"),
            f"Energies on test frames of {dataset}",
            "Predicted against true energies of frames, the mean true energy subtracted from both.",
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
            (f"{measurement['observable']}, mode {measurement['mode']}", measurement["definition"])
            for metrics in runs
            for measurement in metrics["measurements"]
        )
    )


def _provenance(metrics: dict[str, Any]) -> tuple[str, str]:
    record = metrics["run"].get("provenance") or {}
    return str(metrics["run"]["model"]), json.dumps(record, indent=2, ensure_ascii=False)


def _protocol_word(run: dict[str, Any]) -> str:
    """The protocol as `simulate` takes it: by name, or the file that a run of one's own protocol was begun with."""
    return _protocol_file(run) or (
        f"{run['protocol']}.xml" if is_own_structure(run) else str(run["protocol"])
    )


def _protocol_file(run: dict[str, Any]) -> str | None:
    """Name of the file where it is none of the package's."""
    file = ((run.get("provenance") or {}).get("protocol") or {}).get("file")
    return None if file is None else str(file)


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
        folder = metrics["run"].get("folder") or "run"
        folders.append(folder)
        lines.append(shlex.join([*_simulate_words(metrics["run"]), "-o", folder]))
    for modes in dict.fromkeys(tuple(metrics.get("modes") or MODES[:1]) for metrics in runs):
        alike = [
            metrics["run"].get("folder") or "run"
            for metrics in runs
            if tuple(metrics.get("modes") or MODES[:1]) == modes
        ]
        mode = "both" if len(modes) > 1 else modes[0]
        lines.append(shlex.join(["openmm-mlbench", "analyze", *alike, "--mode", mode]))
    lines.append(shlex.join(["openmm-mlbench", "report", *folders, "-o", out_name]))
    return "\n".join(lines)


def _simulate_words(run: dict[str, Any]) -> list[str]:
    """The command line of one run, with every option that decides it."""
    record = run.get("provenance") or {}
    words = ["openmm-mlbench", "simulate", _protocol_word(run)]
    variant = (record.get("protocol") or {}).get("variant")
    # The name of a shipped protocol holds its variant already.
    words += ["--variant", str(variant)] if variant and _protocol_file(run) else []
    words += ["--model", str(run["model"])]
    words += ["--replicas", str(run.get("n_replicas") or len(run["replicas"]))]
    words += ["--length", f"{run['length_ps']:g}"]
    words += ["--platform", str(run["platform"])] if run.get("platform") else []
    threads = ((record.get("platform") or {}).get("properties") or {}).get("Threads", "1")
    words += ["--threads", str(threads)] if str(threads) != "1" else []
    words += ["--seed", str(run["seed"])] if run.get("seed") is not None else []
    bias = record.get("metadynamics") or {}
    words += ["--metadynamics", str(bias["backend"])] if bias.get("backend") else []
    if bias.get("walkers") == "shared":
        words += ["--walkers", "shared", "--jobs", str(run.get("n_replicas") or len(run["replicas"]))]
    return words
