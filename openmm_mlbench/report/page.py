"""The page itself: one file that needs no network."""

import csv
import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openmm_mlbench import __version__, paper
from openmm_mlbench.errors import ReportError
from openmm_mlbench.files import write_text
from openmm_mlbench.metrics.rank_correlation import MIN_MODELS
from openmm_mlbench.report.collection import (
    FULL,
    METRICS_FILE,
    RUN_FILE,
    Collection,
    collect,
    completeness,
    is_own_structure,
    main_runs,
    model_key,
    own_protocol_runs,
    survivors,
)
from openmm_mlbench.report.comparisons import OURS, STABILITY, Ranking, heading_of, rankings
from openmm_mlbench.report.gallery import SECTIONS, Drawn, Gallery, missing_figures, system_of, title_of
from openmm_mlbench.report.gaps import empty_section
from openmm_mlbench.report.plain_tables import (
    PlainTable,
    board_table,
    gap_table,
    number_table,
    ranking_table,
    replica_table,
    write_tables,
)
from openmm_mlbench.report.style import Palette, css_variables, drawing, save, to_svg
from openmm_mlbench.report.table import (
    LEVELS,
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
    label_columns_of,
    make_rows,
    modes_of,
    plain_rows,
    replica_columns_of,
    results_of,
    systems_of,
)

# Rows of a log that are printed, of each replica.
LOG_ROWS = 6
FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Board:
    """The tables of one system: its leaderboard, errors on labelled frames and replicas.

    Args:
        title: of the system.
        system: what the filter calls it.
        columns: of the leaderboard, only what the system has.
        groups: rows by how complete they are, each with its heading; ours, and the paper's beneath.
        label_columns: of the errors on labelled frames; none where there are no more than the leaderboard has.
        label_rows: ours.
        geometry_columns: of bonds, angles and dihedrals; none where nothing of these was asked for.
        geometry_rows: ours.
        has_paper: whether any row is the paper's.
        table: the leaderboard without layout.
        more: the other two likewise.
    """

    title: str
    system: str
    columns: tuple[Column, ...]
    groups: list[tuple[str, str, list[Row]]]
    label_columns: tuple[Column, ...]
    label_rows: list[Row]
    geometry_columns: tuple[Column, ...]
    geometry_rows: list[Row]
    has_paper: bool
    table: PlainTable
    more: list[PlainTable]


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The section of one run.

    Args:
        anchor: of the section.
        title: label and data set.
        system: for the filter.
        model: likewise.
        facts: what a reader asks first.
        files: name and relative place of the files of the run that are at hand.
        command: that repeats it.
        replicas: of metrics.json.
        replica_columns: what any of them has a value for.
        dossiers: of replicas that collapsed: number, reason, message, first step, how far it was reproduced.
        logs: of each replica whose log is at hand: number, titles and a few rows.
        numbers: every number: name, mode, value, floor, unit, status and note.
        provenance: run.json as text.
    """

    anchor: str
    title: str
    system: str
    model: str
    facts: list[tuple[str, str]]
    files: list[tuple[str, str]]
    command: str
    replicas: list[dict[str, Any]]
    replica_columns: tuple[Heading, ...]
    dossiers: list[dict[str, Any]]
    logs: list[tuple[int, list[str], list[list[str]]]]
    numbers: list[tuple[str, ...]]
    provenance: str


def build_report(
    sources: Sequence[str | os.PathLike[str]],
    out_html: str | os.PathLike[str],
    *,
    figures: str | os.PathLike[str] | None = None,
    tables: str | os.PathLike[str] | None = None,
) -> Path:
    """Write one self-contained page about these runs.

    Args:
        sources: run folders that were analyzed, their metrics.json files, or folders of such runs.
        out_html: the page; an existing one is replaced.
        figures: a folder for every figure as PNG and PDF.
        tables: a folder for every table as CSV and JSON.

    Returns:
        The page's path.

    Raises:
        ReportError: nothing to show, a run without metrics, or a damaged file.
    """
    collection = collect(sources)
    out = Path(out_html)
    if out.is_dir():
        raise ReportError(f"{out}: is a folder; give the name of the page, such as {out / 'report.html'}")
    for folder in (figures, tables):
        if folder is not None and Path(folder).is_file():
            raise ReportError(f"{folder}: is a file; give the name of a folder")
    from jinja2 import TemplateError

    try:
        page, drawn, plain = render(collection, out)
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        # Files of the right outline but with other contents: written by hand or by another version.
        raise ReportError(
            f"{', '.join(map(str, sources))}: cannot be shown ({error!r}); analyze the runs again"
        ) from error
    write_text(out, page)
    if figures is not None:
        for one in drawn:
            save(one.figure, Path(figures), one.name)
    if tables is not None:
        write_tables(plain, Path(tables))
    return out


def render(collection: Collection, out: Path) -> tuple[str, list[Drawn], list[PlainTable]]:
    """The page as text, its figures and its tables."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: MISSING if value is None else format_number(value)
    runs = collection.runs
    palette = Palette([model_key(metrics["run"]) for metrics in runs])
    with drawing():
        drawn = Gallery(runs, palette).draw()
    found = rankings(runs)
    gaps = missing_figures(runs, drawn)
    notes = Notes()
    boards = [_board(title, of_system, notes) for title, of_system in systems_of(runs).items()]
    plain = [board.table for board in boards]
    plain += [table for board in boards for table in board.more]
    plain += [ranking_table(found), gap_table(gaps), replica_table(runs), number_table(runs)]
    plain = [table for table in plain if table.rows]
    page = environment.get_template("report.html.j2").render(
        version=__version__,
        style=_style(),
        script=(FOLDER / "report.js").read_text(encoding="utf-8"),
        summary=_summary(runs),
        glance=_glance(runs),
        verdicts=_verdicts(found),
        too_few=_too_few(found),
        min_models=MIN_MODELS,
        boards=boards,
        filters=_filters(runs, boards),
        swatches=_swatches(palette, runs, boards),
        notes=notes.texts,
        modes=modes_of(runs),
        paper_stderr=paper.STDERR_TEXT if any(board.has_paper for board in boards) else "",
        sections=_sections(drawn),
        empty=partial(_empty, runs),
        run_figures=_run_figures(drawn),
        collapse_figures={one.anchor: [one.name] for one in drawn if one.section == "collapse"},
        rankings=found,
        gaps=gaps,
        left_out=collection.left_out,
        definitions=_definitions(runs),
        pages=[_run_page(metrics, out) for metrics in runs],
        repeat=_commands(runs, out.name),
        tables_json=_for_script({table.name: _packed(table) for table in plain}),
    )
    return page, drawn, plain


def _style() -> str:
    """The style sheet with the colours of both themes."""
    text = (FOLDER / "report.css").read_text(encoding="utf-8")
    return text.replace("/* light colours */", css_variables("light")).replace(
        "/* dark colours */", css_variables("dark")
    )


def _packed(table: PlainTable) -> dict[str, Any]:
    """A table with the names of its columns once."""
    rows = [list(row.values()) for row in table.rows]
    return {"table": table.name, "title": table.title, "columns": table.columns, "rows": rows}


def _for_script(value: Any) -> str:
    """JSON that a script element can hold: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _board(title: str, runs: list[dict[str, Any]], notes: Notes) -> Board:
    own = is_own_structure(runs[0]["run"])
    rows = make_rows(runs, notes, gaps=not own)
    columns, label_columns, geometry_columns = (
        columns_of(runs),
        label_columns_of(runs),
        geometry_columns_of(runs),
    )
    # A model has one set of errors on labels, however often it was simulated.
    once = {
        (str(metrics["run"]["model"]), str(metrics["run"]["dataset"])): metrics for metrics in reversed(runs)
    }
    label_rows = plain_rows(list(reversed(once.values())), label_columns, notes)
    geometry_rows = plain_rows(runs, geometry_columns, notes)
    system = system_of(runs[0])
    word = "".join(c if c.isascii() and c.isalnum() else "-" for c in system.lower()).strip("-") or "x"
    more = [
        board_table(f"{kind}-{word}", f"{what}, {title}", of_kind, its_columns, runs)
        for kind, what, of_kind, its_columns in (
            ("labels", "Errors on labelled frames", label_rows, label_columns),
            ("geometry", "Bonds, angles, dihedrals", geometry_rows, geometry_columns),
        )
        if its_columns
    ]
    return Board(
        title=title,
        system=system,
        columns=columns,
        groups=[
            (level, heading, [row for row in rows if row.level == level])
            for level, heading in LEVELS.items()
            if any(row.level == level for row in rows)
        ],
        label_columns=label_columns,
        label_rows=label_rows,
        geometry_columns=geometry_columns,
        geometry_rows=geometry_rows,
        has_paper=any(row.kind == "paper" for row in rows),
        table=board_table(f"leaderboard-{word}", f"Leaderboard, {title}", rows, columns, runs),
        more=more,
    )


def _filters(runs: Sequence[dict[str, Any]], boards: Sequence[Board]) -> dict[str, list[tuple[str, str]]]:
    """Systems and models to choose from: what the page calls them, and what people do."""
    models = [row.model for board in boards for _, _, rows in board.groups for row in rows]
    models += [model_key(metrics["run"]) for metrics in runs]
    order = {model: i for i, model in enumerate(paper.MODELS)}
    known = sorted(dict.fromkeys(models), key=lambda model: order.get(model, len(order)))
    return {
        "systems": [(board.system, board.title) for board in boards],
        "models": [(model, paper.MODELS[model][0] if model in paper.MODELS else model) for model in known],
    }


def _swatches(palette: Palette, runs: Sequence[dict[str, Any]], boards: Sequence[Board]) -> dict[str, str]:
    """CSS variable of the colour of every model."""
    return {model: palette[model].variable for model, _ in _filters(runs, boards)["models"]}


def _sections(drawn: Sequence[Drawn]) -> list[tuple[str, str, list[tuple[Drawn, str]]]]:
    """Key, heading and figures with their markup."""
    return [
        (key, heading, [(one, _markup(one)) for one in drawn if one.section == key])
        for key, heading in SECTIONS.items()
    ]


def _empty(runs: Sequence[dict[str, Any]], key: str) -> tuple[str, str]:
    """What an empty section says."""
    first = runs[0]
    dataset, system = str(first["run"]["dataset"]), system_of(first)
    known = {model_key(metrics["run"]) for metrics in runs if str(metrics["run"]["dataset"]) == dataset}
    return empty_section(key, _folders(runs), dataset, system, known)


def _run_figures(drawn: Sequence[Drawn]) -> dict[str, list[tuple[Drawn, str]]]:
    """Anchor of a run -> its own figures."""
    found: dict[str, list[tuple[Drawn, str]]] = {}
    for one in drawn:
        if one.anchor and not one.section:
            found.setdefault(one.anchor, []).append((one, _markup(one)))
    return found


def _markup(one: Drawn) -> str:
    return to_svg(one.figure, one.name, one.alt, one.links)


def _summary(runs: Sequence[dict[str, Any]]) -> str:
    models = {model_key(metrics["run"]) for metrics in runs}
    systems = {system_of(metrics) for metrics in runs}
    full = sum(completeness(metrics["run"]) == FULL for metrics in runs)
    ps = sum(replica["time_ps"] for metrics in runs for replica in metrics["run"]["replicas"])

    def counted(n: int, word: str) -> str:
        return f"{n} {word}" if n == 1 else f"{n} {word}s"

    text = (
        f"{counted(len(runs), 'run')} of {counted(len(models), 'model')} on {counted(len(systems), 'system')}, "
        f"{ps:,.0f} ps simulated in all; {full} of {counted(len(runs), 'run')} "
        f"{'covers' if full == 1 else 'cover'} the full protocol."
    )
    if full < len(runs):
        text += " Shorter runs give lower bounds and are not ranked against full ones."
    return text


def _glance(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each data set who is most accurate, most stable, closest to the reference and fastest."""
    found = []
    places = dict.fromkeys((system_of(metrics), str(metrics["run"]["dataset"])) for metrics in runs)
    several = Counter(system for system, _ in places)
    for system, dataset in places:
        group = [
            metrics
            for metrics in runs
            if system_of(metrics) == system and metrics["run"]["dataset"] == dataset
        ]
        # Variants and controls stand in the leaderboards.
        own, mains = own_protocol_runs(group), main_runs(group)
        if not mains:
            continue
        full = [metrics for metrics in mains if completeness(metrics["run"]) == FULL]
        error = next(
            (
                name
                for metrics in mains
                for name in results_of(metrics)
                if heading_of(name) and results_of(metrics)[name]["value"] is not None
            ),
            "",
        )
        found.append(
            {
                "system": system,
                "title": title_of(system) + (f", {dataset}" if several[system] > 1 else ""),
                "forces": _best(mains, "force_mae", "meV/Å", smallest=True),
                "stable": _most_stable(full),
                "error_heading": heading_of(error),
                "error": _best(full, error, "", smallest=True) if error else None,
                # Speeds of several machines or platforms say nothing about models.
                "fast": _best(own, "steps_per_second", "steps/s", smallest=False)
                if len(set(map(_ran_on, own))) == 1
                else None,
                "n_full": len(full),
                "n_runs": len(mains),
            }
        )
    return found


def _ran_on(metrics: dict[str, Any]) -> tuple[str, ...]:
    """Platform, machine, and what is known of its GPU and processor."""
    record = metrics["run"].get("provenance") or {}
    properties = (record.get("platform") or {}).get("properties") or {}
    host = record.get("host") or {}
    return (
        str(metrics["run"].get("platform")),
        str(properties.get("DeviceName", "")),
        *(str(host.get(name, "")) for name in ("machine", "system", "processor")),
    )


def _best(
    runs: Sequence[dict[str, Any]], name: str, unit: str, *, smallest: bool
) -> tuple[str, str, str] | None:
    """Label, anchor and number of the best run."""
    known = [
        (metrics["run"], results_of(metrics)[name])
        for metrics in runs
        if (results_of(metrics).get(name) or {}).get("value") is not None
    ]
    if not known:
        return None
    run, result = (min if smallest else max)(known, key=lambda pair: float(pair[1]["value"]))
    return (
        str(run["label"]),
        str(run["anchor"]),
        f"{format_number(result['value'], result['stderr'])} {unit}".strip(),
    )


def _most_stable(full: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """All whose every replica outlived the protocol, or else the most stable one."""
    outlived = [metrics for metrics in full if survivors(metrics["run"]) == len(metrics["run"]["replicas"])]
    if outlived:
        return [
            (
                str(metrics["run"]["label"]),
                str(metrics["run"]["anchor"]),
                format_lengths(replica["time_ps"] for replica in metrics["run"]["replicas"]),
            )
            for metrics in outlived
        ]
    best = _best(full, STABILITY, "ps", smallest=False)
    return [] if best is None else [best]


def _verdicts(found: Sequence[Ranking]) -> list[Ranking]:
    """What our runs say of the paper's first observation, where there are enough models to say something."""
    return [one for one in found if one.source == OURS and len(one.points) >= MIN_MODELS]


def _too_few(found: Sequence[Ranking]) -> list[str]:
    """Data sets of which too few models were run for any number."""
    enough = {one.dataset for one in _verdicts(found)}
    return list(
        dict.fromkeys(one.dataset for one in found if one.source == OURS and one.dataset not in enough)
    )


def _every_number(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """Each result as printed: name, mode, value, floor, unit, status and note."""
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
    return rows


def _run_page(metrics: dict[str, Any], out: Path) -> RunPage:
    run = metrics["run"]
    record = run.get("provenance") or {}
    folder = Path(str(run["place"]))
    return RunPage(
        anchor=str(run["anchor"]),
        title=f"{run['label']}, {run['dataset']}",
        system=system_of(metrics),
        model=model_key(run),
        facts=_facts(run, record),
        files=_files(folder, out, len(run["replicas"])),
        command="\n".join(_run_commands(metrics)),
        replicas=list(run["replicas"]),
        replica_columns=replica_columns_of([metrics]),
        dossiers=[
            {"index": replica["index"], **replica["collapse"]}
            for replica in run["replicas"]
            if replica.get("collapse")
        ],
        logs=_logs(folder, [int(replica["index"]) for replica in run["replicas"]]),
        numbers=_every_number(metrics),
        provenance=json.dumps(record, indent=2, ensure_ascii=False),
    )


def _facts(run: dict[str, Any], record: dict[str, Any]) -> list[tuple[str, str]]:
    versions = record.get("versions") or {}
    host = record.get("host") or {}
    model = record.get("model") or {}
    facts = [
        ("Model", run["model"]),
        ("Weights, SHA-256", model.get("archive_sha256")),
        ("Trained on", f"{run['dataset']}" + (f", {run['n_train']:,} frames" if run.get("n_train") else "")),
        ("Labels", run.get("level_of_theory") or model.get("level_of_theory")),
        ("Protocol", run["protocol"]),
        ("Temperature", None if run.get("temperature_K") is None else f"{run['temperature_K']:g} K"),
        ("Time step", None if run.get("timestep_fs") is None else f"{run['timestep_fs']:g} fs"),
        ("Simulated", format_lengths(replica["time_ps"] for replica in run["replicas"])),
        ("Covers", LEVELS[completeness(run)]),
        ("Started from", run.get("frames_from")),
        ("Platform", run.get("platform")),
        ("Machine", ", ".join(str(value) for value in host.values() if isinstance(value, str | int))),
        ("Seed", run.get("seed")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Commit", record.get("git_commit")),
        ("Folder", run.get("folder")),
        ("Campaign", _campaign_text(record)),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _campaign_text(record: dict[str, Any]) -> str | None:
    campaign = record.get("campaign")
    if not campaign:
        return None
    seed = "" if campaign.get("seed") is None else f", seed {campaign['seed']}"
    named = f"{campaign.get('campaign')}: {campaign.get('model')} on {campaign.get('system')}{seed}"
    return f"{named}; paths and commands are relative to its folder of results"


def _files(folder: Path, out: Path, n_replicas: int) -> list[tuple[str, str]]:
    """The files of a run that are there now, by their place relative to the page."""
    names = [RUN_FILE, METRICS_FILE, "protocol.xml", "topology.pdb"]
    for i in range(n_replicas):
        names += [f"replica-{i}/log.csv", f"replica-{i}/trajectory.dcd", f"replica-{i}/dossier/dossier.json"]
    here = out.resolve().parent
    return [
        (name, Path(os.path.relpath((folder / name).resolve(), here)).as_posix())
        for name in names
        if (folder / name).is_file()
    ]


def _logs(folder: Path, replicas: Sequence[int]) -> list[tuple[int, list[str], list[list[str]]]]:
    """Titles and evenly spaced rows of every log at hand; one that cannot be read is left out."""
    found = []
    for index in replicas:
        path = folder / f"replica-{index}" / "log.csv"
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
        body = [row for row in rows[1:] if len(row) == len(rows[0])]
        if not body:
            continue
        last = len(body) - 1
        wanted = sorted({round(i * last / max(LOG_ROWS - 1, 1)) for i in range(LOG_ROWS)})
        found.append((index, rows[0], [[_short(cell) for cell in body[i]] for i in wanted]))
    return found


def _short(cell: str) -> str:
    """Six digits of a number are enough to read."""
    try:
        return f"{float(cell):.6g}" if "." in cell else cell
    except ValueError:
        return cell


def _definitions(runs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys(
            (f"{measurement['observable']}, mode {measurement['mode']}", measurement["definition"])
            for metrics in runs
            for measurement in metrics["measurements"]
        )
    )


def _protocol_word(run: dict[str, Any]) -> str:
    """The protocol as `simulate` takes it: by name, or the file that a run of one's own protocol was begun with."""
    return _protocol_file(run) or (
        f"{run['protocol']}.xml" if is_own_structure(run) else str(run["protocol"])
    )


def _protocol_file(run: dict[str, Any]) -> str | None:
    """Name of the file where it is none of the package's."""
    file = ((run.get("provenance") or {}).get("protocol") or {}).get("file")
    return None if file is None else str(file)


def _modes_word(metrics: dict[str, Any]) -> str:
    modes = tuple(metrics.get("modes") or MODES[:1])
    return "both" if len(modes) > 1 else str(modes[0])


def _run_commands(metrics: dict[str, Any]) -> list[str]:
    folder = metrics["run"].get("folder") or "run"
    return [
        shlex.join([*_simulate_words(metrics["run"]), "-o", folder]),
        shlex.join(["openmm-mlbench", "analyze", folder, "--mode", _modes_word(metrics)]),
    ]


def _commands(runs: Sequence[dict[str, Any]], out_name: str) -> str:
    """The command lines that make these numbers again, quoted for a shell."""
    lines = [_run_commands(metrics)[0] for metrics in runs]
    folders = _folders(runs)
    for mode in dict.fromkeys(map(_modes_word, runs)):
        alike = [
            folder for folder, metrics in zip(folders, runs, strict=True) if _modes_word(metrics) == mode
        ]
        lines.append(shlex.join(["openmm-mlbench", "analyze", *alike, "--mode", mode]))
    lines.append(shlex.join(["openmm-mlbench", "report", *folders, "-o", out_name]))
    return "\n".join(lines)


def _folders(runs: Sequence[dict[str, Any]]) -> list[str]:
    return [metrics["run"].get("folder") or "run" for metrics in runs]


def _is_gpu(run: dict[str, Any]) -> bool:
    return run.get("platform") in ("CUDA", "HIP", "OpenCL")


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
    platform, batching = record.get("platform") or {}, record.get("batching") or {}
    precision, driver = platform.get("precision"), platform.get("driver")
    words += ["--precision", str(precision)] if precision in ("single", "double") and _is_gpu(run) else []
    words += ["--driver", str(driver)] if driver == "pythonforce" else []
    threads = platform.get("threads") or (platform.get("properties") or {}).get("Threads", "1")
    words += ["--threads", str(threads)] if str(threads) != "1" else []
    if batching:
        words += ["--batch-replicas", "on" if batching.get("replicas") else "off"]
    words += ["--seed", str(run["seed"])] if run.get("seed") is not None else []
    bias = record.get("metadynamics") or {}
    words += ["--metadynamics", str(bias["backend"])] if bias.get("backend") else []
    if bias.get("walkers") == "shared":
        words += ["--walkers", "shared", "--jobs", str(run.get("n_replicas") or len(run["replicas"]))]
    return words
