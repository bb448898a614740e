"""The table a report opens with: our rows, and the paper's row beneath each."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from openmm_mlbench import paper

# Result name, heading and unit as printed.
Column = tuple[str, str, str]
FIRST: tuple[Column, ...] = (("force_mae", "Force MAE", "meV/Å"), ("stability", "Stability", "ps"))
# Between these, in reading order; a name that ends in _ begins the names of several results.
OPTIONAL: tuple[Column, ...] = (
    ("energy_mae", "Energy MAE", "meV"),
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
LAST: tuple[Column, ...] = (("steps_per_second", "Speed", "steps/s"),)
ROTATIONS = ("T_rot", "T_vib")
REPLICA_COLUMNS = ("h_r_mae", "temperature", *ROTATIONS)
MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cell prints; ``notes`` are numbers into the list under the table."""

    text: str
    floor: str = ""
    status: str = ""
    extra: str = ""
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a model of ours, or the paper's."""

    kind: str
    label: str
    detail: str
    data: str
    simulated: str
    cells: tuple[Cell, ...]
    comparison: str


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
    if decimals is not None:
        return f"{value:.{decimals}f}" + (f" ± {stderr:.{decimals}f}" if stderr else "")
    if stderr:
        decimals = min(max(1 - math.floor(math.log10(stderr)), 0), 6)
        return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"
    decimals = 0 if value == 0 else min(max(2 - math.floor(math.log10(abs(value))), 0), 6)
    return f"{value:.{decimals}f}"


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


def results_of(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All results of one metrics.json by name."""
    return {result["name"]: result for m in metrics["measurements"] for result in m["results"]}


def columns_of(runs: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns of a table of these runs: what any of them was asked to measure."""
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
    for name, heading, unit in OPTIONAL:
        if name.endswith("_"):
            members = [other for other in names if other.startswith(name)]
            found += [(member, f"{heading} {member.removeprefix(name)}", unit) for member in members]
        elif name in valued:
            found.append((name, heading, unit))
    return (*FIRST, *found, *LAST)


def replica_columns_of(runs: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns of the table of replicas that any of them has a value for."""
    known = {
        name
        for metrics in runs
        for replica in metrics["run"]["replicas"]
        for name in REPLICA_COLUMNS
        if replica.get(name) is not None
    }
    return tuple(column for column in OPTIONAL if column[0] in known)


def is_own_structure(run: dict[str, Any]) -> bool:
    """Whether a structure of somebody's own was simulated instead of a system of the package."""
    return bool(((run.get("provenance") or {}).get("protocol") or {}).get("structure"))


def make_rows(runs: list[dict[str, Any]], notes: Notes) -> list[Row]:
    """Our row and, where the paper has one, the paper's for each run; footnotes go to ``notes``."""
    rows = []
    columns = columns_of(runs)
    for metrics in runs:
        rows.append(_our_row(metrics, notes, columns))
        run = metrics["run"]
        if is_own_structure(run):
            # The paper has no row for it, whatever the model was trained on.
            continue
        printed = paper.paper_row(str(run["dataset"]), run.get("system") or "", run.get("architecture") or "")
        if printed is not None:
            rows.append(_paper_row(printed, run, notes, columns))
    return rows


def _our_row(metrics: dict[str, Any], notes: Notes, columns: tuple[Column, ...]) -> Row:
    run, results = metrics["run"], results_of(metrics)
    cells = []
    for name, _, _ in columns:
        cell = _cell(results.get(name), notes)
        if name == "stability" and results.get("n_finished", {}).get("value") is not None:
            finished = results["n_finished"]
            extra = f"{finished['value']:.0f} of {finished['n_replicas']} finished"
            cell = Cell(text=cell.text, status=cell.status, notes=cell.notes, extra=extra)
        cells.append(cell)
    return Row(
        kind="ours",
        label=str(run["model"]),
        detail=_protocol_text(run),
        data=_data_text(run),
        simulated=format_lengths(replica["time_ps"] for replica in run["replicas"]),
        cells=tuple(cells),
        comparison="",
    )


def _protocol_text(run: dict[str, Any]) -> str:
    start = run.get("frames_from")
    other = f", started from {_start_text(str(start))}" if start not in {None, run["dataset"]} else ""
    # Nothing that was trained: its errors on labels are their rounding.
    kind = "" if run.get("architecture") else "the potential behind the data; "
    return f"{kind}protocol {run['protocol']}{other}"


def _start_text(start: str) -> str:
    return start if start.endswith(".pdb") else f"{start} frames"


def _data_text(run: dict[str, Any]) -> str:
    n_train = run.get("n_train")
    level = run.get("level_of_theory")
    parts = [str(run["dataset"])]
    parts += [f"({level})"] if level else []
    return " ".join(parts) + (f", {n_train:,} training frames" if n_train else "")


def _paper_row(row: paper.PaperRow, run: dict[str, Any], notes: Notes, columns: tuple[Column, ...]) -> Row:
    results = paper.paper_results(row)
    cells = []
    for name, _, _ in columns:
        result = results.get(name)
        cells.append(
            _cell(vars(result), notes, paper.DECIMALS.get(name, paper.USUAL_DECIMALS))
            if result
            else Cell(text=MISSING)
        )
    return Row(
        kind="paper",
        label=f"{row.label}, paper",
        detail=row.table.name,
        data=row.table.data,
        simulated=format_lengths([row.table.length_ps] * row.table.n_simulations),
        cells=tuple(cells),
        comparison=compare_with_paper(run, row.table),
    )


def compare_with_paper(run: dict[str, Any], table: paper.PaperTable) -> str:
    """In what this run differs from the paper's."""
    differs = []
    if run["dataset"] != table.dataset:
        differs.append("labels")
    if run.get("n_train") != table.n_train:
        differs.append("amount of data")
    lengths = [replica["time_ps"] for replica in run["replicas"]]
    if run["length_ps"] != table.length_ps or len(lengths) != table.n_simulations:
        differs.append("length")
    differs.append("hardware")
    return ", ".join(differs)


def _cell(result: dict[str, Any] | None, notes: Notes, decimals: int | None = None) -> Cell:
    if result is None:
        return Cell(text=MISSING)
    note = (notes.number(result["note"]),) if result["note"] else ()
    status = "" if result["status"] == "ok" else result["status"].replace("_", " ")
    if result["value"] is None:
        return Cell(text=MISSING, status=status, notes=note)
    floor = "" if result["floor"] is None else f"floor {format_number(result['floor'])}"
    prefix = "≥ " if result["status"] == "censored" else ""
    return Cell(
        text=prefix + format_number(result["value"], result["stderr"], decimals),
        floor=floor,
        status=status,
        notes=note,
    )
