"""The tables of a report: our rows, the paper's row beneath each model, and what was not run yet."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from openmm_mlbench import paper
from openmm_mlbench.report.collection import (
    CONTROL,
    FULL,
    GAP,
    SHORT,
    VARIANT,
    completeness,
    is_own_structure,
    model_key,
    planned_length_ps,
    planned_replicas,
    survivors,
)
from openmm_mlbench.report.gaps import command_for
from openmm_mlbench.results import wide_angles

# Result name, heading and unit as printed.
Heading = tuple[str, str, str]
FIRST: tuple[Heading, ...] = (("force_mae", "Force MAE", "meV/Å"), ("stability", "Stability", "ps"))
# Between these, in reading order; a name that ends in _ begins the names of several results.
OPTIONAL: tuple[Heading, ...] = (
    ("h_r_mae", "h(r) MAE", ""),
    ("h_r_mae_canonical", "h(r) MAE, canonical", ""),
    ("rdf_mae_", "RDF MAE", "Å"),
    ("diffusivity", "D", "10⁻⁹ m²/s"),
    ("diffusivity_mae", "D error", "10⁻⁹ m²/s"),
    ("F_phi_mae", "F(φ) MAE", "kJ/mol rad"),
    ("F_psi_mae", "F(ψ) MAE", "kJ/mol rad"),
    ("drift", "Drift", "kJ/mol/ps/atom"),
    ("temperature", "T", "K"),
    ("T_rot", "T rot.", "K"),
    ("T_vib", "T vib.", "K"),
)
LAST: tuple[Heading, ...] = (
    ("steps_per_second", "Speed", "steps/s"),
    ("ns_per_day", "Speed", "ns/day"),
)
# Errors on labelled frames, in a table of their own.
ON_LABELS: tuple[Heading, ...] = (
    ("force_mae", "Force MAE", "meV/Å"),
    ("force_rmse", "Force RMSE", "meV/Å"),
    ("force_cosine", "Force cosine", ""),
    ("force_mae_", "Force MAE", "meV/Å"),
    ("energy_mae", "Energy MAE", "meV"),
    ("energy_mae_per_atom", "Energy MAE, mean error removed", "meV/atom"),
)
# Distances from the reference, beyond the paper's, in a table of their own.
GEOMETRY: tuple[Heading, ...] = (
    ("bond_mae_", "Bonds", ""),
    ("angle_mae_", "Angles", ""),
    ("dihedral_mae_", "Dihedral", ""),
    ("basin_mae_", "Basins", ""),
)
# What does not come from the simulation has no ps.
FROM_LABELS = ("force_", "energy_")
LEVELS = {
    FULL: "Full protocol",
    VARIANT: "Variants of the protocol, not ranked against it",
    SHORT: "Shorter or fewer runs than the protocol: not ranked against full runs",
    CONTROL: "The potential behind the data: what a perfect model scores",
    GAP: "Not run yet",
}
MODES = ("paper", "mdsim")
ROTATIONS = ("T_rot", "T_vib")
REPLICA_COLUMNS = ("h_r_mae", "temperature", *ROTATIONS)
MISSING = "\N{EN DASH}"
MAX_DECIMALS = 6
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: the result it shows, of the mode that it names.

    ``mode`` is empty where nothing depends on it; ``shown_mode`` is printed where two modes stand side by side or
    where the default one is missing.
    """

    name: str
    heading: str
    unit: str
    mode: str = ""
    shown_mode: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cell prints, and the numbers behind it.

    Args:
        text: the value, a bound or a dash.
        error: its standard error.
        floor: its noise floor.
        status: in words, empty where all is well.
        extra: one more line.
        ran: the ps behind it.
        notes: numbers into the list under the table.
        flaws: notes on what is known to be wrong with a printed number.
        odd: notes on what this number does not see.
        result: value, stderr, floor and status as they stand in metrics.json; empty where there is none.
    """

    text: str
    error: str = ""
    floor: str = ""
    status: str = ""
    extra: str = ""
    ran: str = ""
    notes: tuple[int, ...] = ()
    flaws: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> float | None:
        """What a column is sorted by."""
        return self.result.get("value")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        kind: ``ours``, ``paper``, or ``gap`` for what was not run.
        label: of the model.
        detail: protocol and start.
        data: what it was trained on.
        simulated: what ran.
        cells: one for each column.
        comparison: how data and length differ from the paper's.
        level: how much of its protocol it covers, a key of LEVELS; the paper's is that of the row above it.
        model: architecture, or id of a model without one.
        dataset: it was trained on.
        anchor: of the run's own section.
        command: that fills a gap.
        flaws: notes on what is known to be wrong with the whole row.
        folder: of the run.
    """

    kind: str
    label: str
    detail: str
    data: str
    simulated: str
    cells: tuple[Cell, ...]
    comparison: str
    level: str = FULL
    model: str = ""
    dataset: str = ""
    anchor: str = ""
    command: str = ""
    flaws: tuple[int, ...] = ()
    folder: str = ""


@dataclass
class Notes:
    """Footnotes, each kept once."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        """Number of this note, from 1; a new text is appended."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def format_number(value: float, stderr: float | None = None, decimals: int | None = None) -> str:
    """A value to two digits of its standard error, or to three digits where it has none."""
    return " ".join(filter(None, format_parts(value, stderr, decimals)))


def format_parts(value: float, stderr: float | None = None, decimals: int | None = None) -> tuple[str, str]:
    """The same in two parts, the second empty without a standard error."""
    if decimals is not None:
        return f"{value:.{decimals}f}", f"± {stderr:.{decimals}f}" if stderr else ""
    if stderr:
        decimals = min(max(1 - math.floor(math.log10(stderr)), 0), MAX_DECIMALS)
        # An error that so many digits would print as zero.
        error = f"{stderr:.{decimals}f}" if stderr >= 10.0**-MAX_DECIMALS else f"{stderr:.0e}"
        return f"{value:.{decimals}f}", f"± {error}"
    decimals = 0 if value == 0 else min(max(2 - math.floor(math.log10(abs(value))), 0), MAX_DECIMALS)
    return f"{value:.{decimals}f}", ""


def format_lengths(lengths_ps: Iterable[float]) -> str:
    """What really ran: ``2 × 5 ps``, or ``3 × 300 ps, 1 × 12.4 ps``."""
    counts = Counter(f"{length:.0f}" if length >= 1000 else f"{length:.4g}" for length in lengths_ps)
    if not counts:
        return "nothing"
    longest_first = sorted(counts.items(), key=lambda item: -float(item[0]))
    # No line break inside an item.
    return ", ".join(
        f"{count} {TIMES} {length} ps".replace(" ", "\N{NO-BREAK SPACE}") for length, count in longest_first
    )


def format_ran(lengths_ps: Iterable[float]) -> str:
    """The same, short enough for a cell: unequal lengths are summed."""
    lengths = list(lengths_ps)
    text = format_lengths(lengths)
    return (
        text
        if len({f"{length:.4g}" for length in lengths}) < 2
        else f"{sum(lengths):.4g} ps of {len(lengths)} replicas".replace(" ", "\N{NO-BREAK SPACE}")
    )


def results_of(metrics: dict[str, Any], mode: str | None = None) -> dict[str, dict[str, Any]]:
    """All results of one metrics.json by name: of one mode, or of the first that has them where None."""
    found: dict[str, dict[str, Any]] = {}
    for measurement in metrics["measurements"]:
        if mode is None or measurement["mode"] == mode:
            for result in measurement["results"]:
                found.setdefault(result["name"], result)
    return found


def modes_of(runs: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """The modes that any of these runs was analyzed in, the default one first."""
    known = {measurement["mode"] for metrics in runs for measurement in metrics["measurements"]}
    return tuple(mode for mode in MODES if mode in known)


def columns_of(runs: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns of a table of these runs: what any of them was asked to measure, in each mode it was measured in."""
    first = [Column(name=name, heading=heading, unit=unit) for name, heading, unit in FIRST]
    found = _expanded(OPTIONAL, runs)
    last = [
        Column(name=name, heading=heading, unit=unit)
        for name, heading, unit in LAST
        if name == "steps_per_second" or any(name in results_of(metrics) for metrics in runs)
    ]
    return tuple(column for bare in [*first, *found, *last] for column in _in_modes(bare, runs))


def label_columns_of(runs: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns of the table of errors on labelled frames; empty where no run has more than its force MAE."""
    found = _expanded(ON_LABELS, runs)
    return tuple(found) if len(found) > 1 else ()


def geometry_columns_of(runs: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns of the table of bonds, angles and dihedrals; empty where nothing of these was asked for."""
    return tuple(_expanded(GEOMETRY, runs))


def _expanded(headings: Iterable[Heading], runs: list[dict[str, Any]]) -> list[Column]:
    names = dict.fromkeys(name for metrics in runs for name in results_of(metrics))
    valued = {
        name
        for metrics in runs
        for name, result in results_of(metrics).items()
        # A periodic system has no rotation of its own.
        if result["value"] is not None
        or name not in ROTATIONS
        or metrics["run"].get("criterion", "bonds") == "bonds"
    }
    found: list[Column] = []
    for name, heading, unit in headings:
        if name.endswith("_"):
            members = [other for other in names if other.startswith(name)]
            found += [
                Column(name=member, heading=f"{heading} {_unbroken(member.removeprefix(name))}", unit=unit)
                for member in members
            ]
        elif name in valued:
            found.append(Column(name=name, heading=heading, unit=unit))
    return found


def _unbroken(label: str) -> str:
    """A pair of elements that no line break parts."""
    return label.replace("-", "\N{NON-BREAKING HYPHEN}")


def _in_modes(column: Column, runs: list[dict[str, Any]]) -> list[Column]:
    """The column as it is where nothing depends on the mode, else one for each mode that any run has."""
    modes = [mode for mode in MODES if any(column.name in results_of(metrics, mode) for metrics in runs)]
    if not modes:
        return [column]
    if len(modes) > 1 and all(_alike(column.name, metrics) for metrics in runs):
        return [replace(column, shown_mode="both modes")]
    shown = len(modes) > 1 or modes != [MODES[0]]
    return [
        Column(
            name=column.name,
            heading=column.heading,
            unit=column.unit,
            mode=mode,
            shown_mode=f"mode {mode}" if shown else "",
        )
        for mode in modes
    ]


def _alike(name: str, metrics: dict[str, Any]) -> bool:
    """Whether both modes print the same of a result, or neither has it."""
    found = [results_of(metrics, mode).get(name) for mode in MODES]
    printed = [
        None if one is None else (one["status"], *(_digits(one[key]) for key in ("value", "stderr", "floor")))
        for one in found
    ]
    return printed[0] == printed[1]


def _digits(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def systems_of(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs by what they simulated: a system of the package, or a structure of somebody's own by its protocol."""
    found: dict[str, list[dict[str, Any]]] = {}
    # Systems with models of ours before those with controls only.
    for metrics in sorted(runs, key=lambda one: completeness(one["run"]) == CONTROL):
        run = metrics["run"]
        own = is_own_structure(run) or not run.get("system")
        title = str(run["protocol"]) if own else _title(str(run["system"]))
        found.setdefault(title, []).append(metrics)
    return found


def _title(system: str) -> str:
    return {"lips": "LiPS"}.get(system, system.replace("-", " ").capitalize())


def replica_columns_of(runs: list[dict[str, Any]]) -> tuple[Heading, ...]:
    """The columns of the table of replicas that any of them has a value for."""
    known = {
        name
        for metrics in runs
        for replica in metrics["run"]["replicas"]
        for name in REPLICA_COLUMNS
        if replica.get(name) is not None
    }
    return tuple(column for column in OPTIONAL if column[0] in known)


def make_rows(runs: list[dict[str, Any]], notes: Notes, *, gaps: bool = False) -> list[Row]:
    """Our row for each run, grouped by how complete it is and sorted by force MAE; footnotes go to ``notes``.

    The paper's row, where it has one, stands beneath the first run of each model.

    Args:
        runs: of one system.
        notes: takes the footnotes.
        gaps: whether to list the models of the paper that were not run, each with the command that fills the gap.
    """
    columns = columns_of(runs)
    levels = [completeness(metrics["run"]) for metrics in runs]
    order = list(LEVELS)
    rows: list[Row] = []
    shown: set[tuple[str, str]] = set()
    for level, metrics in sorted(
        zip(levels, runs, strict=True), key=lambda pair: (order.index(pair[0]), _force_mae(pair[1]))
    ):
        run = metrics["run"]
        printed = _printed_for(run)
        rows.append(_our_row(metrics, notes, columns, level, printed))
        if printed is not None and (printed.table.dataset, printed.model) not in shown:
            shown.add((printed.table.dataset, printed.model))
            rows.append(_paper_row(printed, notes, columns, level))
    if gaps:
        rows += _gap_rows(runs, shown, notes, columns)
    return rows


def _printed_for(run: dict[str, Any]) -> paper.PaperRow | None:
    """The paper's row beside a run; none for a structure of one's own, whatever the model was trained on."""
    if is_own_structure(run):
        return None
    return paper.paper_row(str(run["dataset"]), run.get("system") or "", run.get("architecture") or "")


def _force_mae(metrics: dict[str, Any]) -> float:
    found = results_of(metrics).get("force_mae")
    return math.inf if found is None or found["value"] is None else float(found["value"])


def _gap_rows(
    runs: list[dict[str, Any]], shown: set[tuple[str, str]], notes: Notes, columns: tuple[Column, ...]
) -> list[Row]:
    """What the paper has of these systems and nobody ran here."""
    systems = {str(metrics["run"].get("system")) for metrics in runs if not is_own_structure(metrics["run"])}
    # Data sets of one system are rows of one board only where the paper has several of it.
    tables = [table for table in paper.TABLES if table.system in systems]
    rows = []
    for table in tables:
        for model in paper.MODELS:
            printed = paper.paper_row(table.dataset, table.system, model)
            if printed is None or (table.dataset, model) in shown:
                continue
            rows.append(
                Row(
                    kind=GAP,
                    label=printed.label,
                    detail="",
                    data=table.dataset,
                    simulated="nothing",
                    cells=tuple(Cell(text=MISSING) for _ in columns),
                    comparison="",
                    level=GAP,
                    model=model,
                    dataset=table.dataset,
                    command=command_for(table.dataset, table.system, model),
                )
            )
            rows.append(_paper_row(printed, notes, columns, GAP))
    return rows


def plain_rows(runs: list[dict[str, Any]], columns: tuple[Column, ...], notes: Notes) -> list[Row]:
    """One row for each run, without the paper's."""
    return [
        Row(
            kind="ours",
            label=str(metrics["run"].get("label") or metrics["run"]["model"]),
            detail="",
            data=_data_text(metrics["run"]),
            simulated="",
            cells=tuple(
                replace(
                    _cell(results_of(metrics).get(column.name), notes),
                    ran=_ran(metrics["run"], column.name)
                    if results_of(metrics).get(column.name, {}).get("value") is not None
                    else "",
                )
                for column in columns
            ),
            comparison="",
            level=completeness(metrics["run"]),
            model=model_key(metrics["run"]),
            dataset=str(metrics["run"]["dataset"]),
            anchor=str(metrics["run"].get("anchor") or ""),
            folder=str(metrics["run"].get("folder") or ""),
        )
        for metrics in runs
    ]


def _our_row(
    metrics: dict[str, Any],
    notes: Notes,
    columns: tuple[Column, ...],
    level: str,
    printed: paper.PaperRow | None,
) -> Row:
    run = metrics["run"]
    cells = []
    for column in columns:
        of_mode = results_of(metrics, column.mode or None)
        result = of_mode.get(column.name)
        # What does not depend on the mode for this run stands in the first column.
        if result is None and column.mode in ("", MODES[0]):
            result = results_of(metrics, "standard").get(column.name)
        cell = _cell(result, notes)
        if result is not None and result["value"] is not None:
            cell = replace(cell, ran=_ran(run, column.name))
        if column.name == "stability" and result is not None:
            finished = of_mode.get("n_finished") or results_of(metrics, "standard").get("n_finished")
            cell = _stability_cell(cell, run, finished)
            if survivors(run) and (words := wide_angles(metrics)):
                cell = replace(cell, odd=(notes.number(words),))
        cells.append(cell)
    return Row(
        kind="ours",
        label=str(run.get("label") or run["model"]),
        detail=_protocol_text(run),
        data=_data_text(run),
        simulated=_simulated_text(run, level),
        cells=tuple(cells),
        comparison="" if printed is None else compare_with_paper(run, printed.table),
        level=level,
        model=model_key(run),
        dataset=str(run["dataset"]),
        anchor=str(run.get("anchor") or ""),
        folder=str(run.get("folder") or ""),
    )


def _stability_cell(cell: Cell, run: dict[str, Any], finished: dict[str, Any] | None) -> Cell:
    """With who finished; where a survivor was cut off before the protocol's end, the value is a bound."""
    if finished is not None and finished["value"] is not None:
        cell = replace(cell, extra=f"{finished['value']:.0f} of {finished['n_replicas']} finished")
    cut = any(
        not replica.get("broke") and replica["time_ps"] < planned_length_ps(run) * (1 - 1e-6)
        for replica in run["replicas"]
    )
    if cell.rank is None or not (cut and survivors(run)):
        return cell
    value, _ = format_parts(cell.rank, cell.result.get("stderr"))
    return replace(cell, text=f"at least {value} ps", error="", status="censored")


def _ran(run: dict[str, Any], name: str) -> str:
    """The ps behind a number: of speed and stability what was simulated, of observables what of it was stable."""
    if name.startswith(FROM_LABELS):
        return ""
    key = "time_ps" if name in ("stability", "steps_per_second", "ns_per_day") else "stable_ps"
    return format_ran(float(replica.get(key, replica["time_ps"])) for replica in run["replicas"])


def _simulated_text(run: dict[str, Any], level: str) -> str:
    text = format_lengths(replica["time_ps"] for replica in run["replicas"])
    if level != SHORT:
        return text
    planned = format_lengths([planned_length_ps(run)] * planned_replicas(run))
    return f"{text} of {planned}"


def _protocol_text(run: dict[str, Any]) -> str:
    start = run.get("frames_from")
    other = f", started from {_start_text(str(start))}" if start not in {None, run["dataset"]} else ""
    return f"protocol {run['protocol']}{other}"


def _start_text(start: str) -> str:
    return start if start.endswith(".pdb") else f"{start} frames"


def _data_text(run: dict[str, Any]) -> str:
    n_train = run.get("n_train")
    level = run.get("level_of_theory")
    parts = [str(run["dataset"])]
    parts += [f"({level})"] if level else []
    return " ".join(parts) + (f", {n_train:,} training frames" if n_train else "")


def _paper_row(row: paper.PaperRow, notes: Notes, columns: tuple[Column, ...], level: str) -> Row:
    results = paper.paper_results(row)
    n = row.table.n_simulations
    # The paper's numbers were made by its program: where that mode has a column they stand there.
    in_mdsim = {column.name for column in columns if column.mode == "mdsim"}
    cells = []
    for column in columns:
        result = results.get(column.name)
        if result is None or (column.mode == "paper" and column.name in in_mdsim):
            cells.append(Cell(text=MISSING))
            continue
        decimals = paper.DECIMALS.get(column.name, paper.USUAL_DECIMALS)
        printed = vars(result)
        if column.mode == "paper" and result.value is not None:
            printed = printed | {"note": "; ".join(filter(None, (result.note, paper.BY_ITS_PROGRAM)))}
        flaws = tuple(notes.number(text) for text in paper.known_flaws(row, column.name))
        ran = "" if column.name.startswith(FROM_LABELS) else format_ran([row.table.length_ps] * n)
        if column.name not in ("stability", "steps_per_second", "ns_per_day"):
            # It prints no length of the stable part.
            ran = ran and f"of {ran}"
        cells.append(replace(_cell(printed, notes, decimals), flaws=flaws, ran=ran))
    return Row(
        kind="paper",
        label=f"{row.label}, paper",
        detail=row.table.name,
        data=row.table.data,
        simulated=format_lengths([row.table.length_ps] * n),
        cells=tuple(cells),
        comparison="",
        level=level,
        model=row.model,
        dataset=row.table.dataset,
        flaws=tuple(notes.number(text) for text in paper.known_flaws(row)),
    )


def compare_with_paper(run: dict[str, Any], table: paper.PaperTable) -> str:
    """Whether data and length of this run are those of the paper's, and what else differs."""
    data = ["other labels"] if run["dataset"] != table.dataset else []
    n_train = run.get("n_train")
    if n_train != table.n_train:
        amount = "fewer" if n_train is not None and n_train < table.n_train else "other number of"
        data.append(f"{amount} training frames")
    length = []
    if run["length_ps"] != table.length_ps:
        length.append("shorter" if run["length_ps"] < table.length_ps else "longer")
    if len(run["replicas"]) != table.n_simulations:
        length.append(
            f"{'fewer' if len(run['replicas']) < table.n_simulations else 'more'} runs",
        )
    return f"data: {', '.join(data) or 'same'}; length: {', '.join(length) or 'same'}"


def _cell(result: dict[str, Any] | None, notes: Notes, decimals: int | None = None) -> Cell:
    if result is None:
        return Cell(text=MISSING)
    note = (notes.number(result["note"]),) if result["note"] else ()
    numbers = {key: result.get(key) for key in ("value", "stderr", "floor", "status", "n_replicas")}
    status = "" if result["status"] == "ok" else result["status"].replace("_", " ")
    if result["value"] is None:
        return Cell(text=MISSING, status=status, notes=note, result=numbers)
    floor = "" if result["floor"] is None else f"floor {format_number(result['floor'])}"
    prefix = "≥ " if result["status"] == "censored" else ""
    text, error = format_parts(result["value"], result["stderr"], decimals)
    return Cell(
        text=prefix + text,
        error=error,
        floor=floor,
        status=status,
        notes=note,
        result=numbers,
    )
