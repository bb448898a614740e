"""The speed program's tables, as plain cells."""

from collections.abc import Sequence
from typing import Any

from openmm_mlbench.simulation.batching import Layout
from openmm_mlbench.speed.program import key_of

Record = dict[str, Any]
NOT_MEASURED = "not measured"
COLUMNS = (
    *("model", "system", "weights", "platform", "network", "TorchForce", "steps/s", "PythonForce"),
    *(
        "ASE, same module",
        "ASE, autograd",
        "OpenMM-ML",
        "engine",
        "of step",
        "vs autograd",
        "vs ASE, same module",
    ),
    *("vs ASE, autograd", "batch of 5", "ops", "busy", "growth"),
)


def time_of(entry: Record, variant: str) -> str:
    """Least wall time and least process time of a step, in us or ms."""
    timing = entry["variants"].get(variant)
    if timing is None:
        return "-"
    wall, process = timing["wall_us_min"], timing["process_us_min"]
    if wall >= 10_000:
        return f"{wall / 1000:.1f} / {process / 1000:.1f} ms"
    return f"{wall:.0f} / {process:.0f} us"


def rows(entries: Sequence[Record]) -> list[list[str]]:
    """One row per entry, in the order of ``COLUMNS``."""
    return [
        [
            entry["model"],
            f"{entry['system']} ({entry['n_atoms']})",
            entry["weights"],
            entry["platform"],
            time_of(entry, "network"),
            time_of(entry, "torchforce"),
            _number(entry["derived"]["steps_per_second"], 0 if _fast(entry) else 2),
            time_of(entry, "pythonforce"),
            time_of(entry, "ase"),
            time_of(entry, "ase, autograd"),
            time_of(entry, "openmm-ml"),
            _number(entry["derived"]["engine_us"], 1, " us"),
            _percent(entry["derived"]["engine_fraction"]),
            _number(entry["derived"]["gain_over_autograd"], 2),
            _number(entry["derived"]["gain_over_ase"], 2),
            _number(entry["derived"].get("gain_over_ase_autograd"), 2),
            _batching(entry["batching"]),
            str(entry["operators"]["executed"]),
            _number(entry["derived"]["busy"], 2),
            "-" if entry.get("scaling") is None else f"n^{entry['scaling']['exponent']:.2f}",
        ]
        for entry in entries
    ]


def notes(entries: Sequence[Record]) -> list[str]:
    """What the table cannot say: why a cell is empty."""
    said: dict[str, None] = {}
    for entry in entries:
        for variant, reason in entry["missing"].items():
            said[f"{entry['model']} on {entry['system']}, {variant}: {reason}"] = None
        if entry["batching"]["gain"] is None:
            said[f"batch of 5: {entry['batching']['reason']}"] = None
    if not any(entry["platform"] == "CUDA" for entry in entries):
        said[f"CUDA: {NOT_MEASURED}; run the same command with --platform CUDA where a GPU is"] = None
    return list(said)


def find(entries: Sequence[Record], **wanted: Any) -> Record | None:
    """The last entry whose values are these."""
    found = [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]
    return found[-1] if found else None


def sort(entries: Sequence[Record]) -> list[Record]:
    """By system size, then by model."""
    return sorted(entries, key=lambda entry: (entry["n_atoms"], *map(str, key_of(entry))))


def _batching(found: Record) -> str:
    """The gain, and the threads where there was a choice."""
    if found["gain"] is None or "threads" not in found:
        return _number(found["gain"], 2)
    together = Layout(found["threads"], found.get("groups", 1))
    return f"{found['gain']:.2f} ({together}; one {Layout(found['threads_alone'])})"


def _fast(entry: Record) -> bool:
    return (entry["derived"]["steps_per_second"] or 0.0) >= 10.0


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2g} %"
