"""The one shape of machine-readable output (see docs/results.md)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from openmm_mlbench.errors import MetricError
from openmm_mlbench.files import finite_or_none

# Of metrics.json: a report takes what this version of the analysis writes, and nothing older.
METRICS_FORMAT, METRICS_VERSION = "openmm-mlbench metrics", 2
STATUSES = ("ok", "unstable", "censored", "too_short", "no_reference", "unsupported", "failed")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number with its status, standard error, unit and noise floor.

    ``value`` is None where the status says that there is none; a value that is said to be one and is no finite number
    makes the result ``failed``.
    """

    name: str
    status: str
    unit: str
    value: float | None = None
    stderr: float | None = None
    floor: float | None = None
    n_frames: int | None = None
    n_replicas: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise MetricError(f"status {self.status!r} of {self.name} is not one of {', '.join(STATUSES)}")
        finite = self.value is not None and math.isfinite(self.value)
        if self.status in ("ok", "censored") and not finite:
            note = "; ".join(filter(None, (f"the value is {self.value}, no finite number", self.note)))
            for key, value in (("status", "failed"), ("value", None), ("note", note)):
                object.__setattr__(self, key, value)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line to draw: x and y of one length, with units."""

    x: list[float]
    y: list[float]
    x_unit: str
    y_unit: str


@dataclass(frozen=True, kw_only=True)
class Map:
    """A surface to draw: z has a row for each x and a column for each y."""

    x: list[float]
    y: list[float]
    z: list[list[float]]
    x_unit: str
    y_unit: str
    z_unit: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Everything one observable gave: numbers, curves and maps, and how they were defined."""

    observable: str
    mode: str
    definition: str
    inputs: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """A plain dict without NaN or Infinity; ``maps`` only where there are any."""
        record = asdict(self)
        if not self.maps:
            del record["maps"]
        for surface in record.get("maps", {}).values():
            surface["z"] = [[finite_or_none(number) for number in row] for row in surface["z"]]
        for result in record["results"]:
            for key in ("value", "stderr", "floor"):
                result[key] = finite_or_none(result[key])
        for curve in record["curves"].values():
            for axis in ("x", "y"):
                curve[axis] = [finite_or_none(number) for number in curve[axis]]
        return record


# Angles of one kind that vary more than this times as far as the reference's are not those of the molecule any
# more: whole runs of the shipped models are below 1.4, the one that is whole by its bonds only has 5.7.
WIDE_ANGLES = 2.0


def wide_angles(metrics: Mapping[str, Any]) -> str:
    """What a criterion of bonds does not see: the kind of angle that varies much further than the reference's.

    Args:
        metrics: as metrics.json has them.

    Returns:
        One line, empty where all kinds vary less than ``WIDE_ANGLES`` times as far, or none was measured.
    """
    found = []
    for measurement in metrics["measurements"]:
        if measurement["observable"] != "angles":
            continue
        curves = measurement["curves"]
        for kind in curves:
            if f"reference {kind}" not in curves:
                continue
            here, reference = _spread(curves[kind]), _spread(curves[f"reference {kind}"])
            if here > WIDE_ANGLES * reference > 0:
                found.append((here / reference, kind, here, reference))
    if not found:
        return ""
    _, kind, here, reference = max(found)
    return (
        f"{kind} angles have a standard deviation of {here:.1f} deg, {reference:.1f} in the reference: look at the trajectory, "
        "stability judges bonds alone"
    )


def _spread(curve: Mapping[str, list[float]]) -> float:
    """Standard deviation of a density over its axis."""
    total = sum(curve["y"])
    if total <= 0:
        return 0.0
    mean = sum(x * y for x, y in zip(curve["x"], curve["y"], strict=True)) / total
    variance = sum((x - mean) ** 2 * y for x, y in zip(curve["x"], curve["y"], strict=True)) / total
    return math.sqrt(variance)
