"""Does a lower force error go with a better simulation?  Rank correlations over the models of one data set."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from openmm_mlbench import paper
from openmm_mlbench.metrics.rank_correlation import (
    ALIGNED,
    MIN_MODELS,
    OPPOSED,
    TOO_FEW,
    RankCorrelation,
    rank_correlation,
)
from openmm_mlbench.metrics.stability import RestrictedMean, restricted_mean
from openmm_mlbench.report.collection import entry_of, main_runs, own_protocol_runs, seed_of, simulated_ps
from openmm_mlbench.report.table import format_ran, results_of

# Beginning of a result's name -> how it is called; all are errors, the smaller the better.
ERRORS = {
    "h_r_mae": "h(r) MAE",
    "rdf_mae_": "RDF MAE",
    "diffusivity_mae": "D error",
    "F_phi_mae": "F(φ) MAE",
    "F_psi_mae": "F(ψ) MAE",
}
STABILITY = "stability"
OURS, PAPER = "these runs", "the paper"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model: its force MAE and one number of its simulation, with standard errors where known.

    Of several seeds the means, with standard errors over them.
    """

    label: str
    model: str
    anchor: str
    force_mae: float
    force_stderr: float | None
    value: float
    stderr: float | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The models of one data set, ordered by force MAE and by one number of their simulations.

    Args:
        dataset: they were trained on.
        system: they simulated.
        quantity: name of the result.
        heading: as printed.
        source: ``these runs`` or ``the paper``.
        points: one for each model.
        ran: the length that all have in common.
        correlation: of force MAE with the number; with its negative for stability, so that aligned is always good.
    """

    dataset: str
    system: str
    quantity: str
    heading: str
    source: str
    points: tuple[Point, ...]
    ran: str
    correlation: RankCorrelation

    @property
    def verdict(self) -> str:
        """In words."""
        better = "longer stability" if self.quantity == STABILITY else "a smaller error"
        worse = "shorter stability" if self.quantity == STABILITY else "a larger error"
        whose = "our runs" if self.source == OURS else "its numbers"
        return {
            ALIGNED: f"a lower force error goes with {better}",
            OPPOSED: f"a lower force error goes with {worse}",
            TOO_FEW: f"not decided by {whose}: {len(self.points)} of at least {MIN_MODELS} models",
        }.get(self.correlation.verdict, f"not decided by {whose}")


def rankings(runs: Sequence[dict[str, Any]]) -> list[Ranking]:
    """One for each data set and number of its simulations, ours and the paper's beneath."""
    found: list[Ranking] = []
    every = own_protocol_runs(runs)
    for dataset in dict.fromkeys(str(metrics["run"]["dataset"]) for metrics in every):
        group = [metrics for metrics in every if metrics["run"]["dataset"] == dataset]
        for quantity in quantities_of(group):
            points, ran = points_of(group, quantity)
            system = str(group[0]["run"].get("system") or "")
            found.append(_ranking(dataset, system, quantity, OURS, points, ran))
            printed = paper_points(dataset, system, quantity)
            if printed:
                found.append(_ranking(dataset, system, quantity, PAPER, printed[0], printed[1]))
    return found


def quantities_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Stability, and the errors of observables that any of these runs has."""
    names = dict.fromkeys(name for metrics in runs for name in results_of(metrics))
    return [STABILITY, *(name for name in names if heading_of(name) and not name.endswith("_runs"))]


def heading_of(quantity: str) -> str:
    """How an error is called, empty for what is none of an observable."""
    for start, text in ERRORS.items():
        if quantity == start or (start.endswith("_") and quantity.startswith(start)):
            return f"{text} {quantity.removeprefix(start)}".strip()
    return ""


def points_of(runs: Sequence[dict[str, Any]], quantity: str) -> tuple[list[Point], str]:
    """Models that can be compared, and the length they share.

    Errors shrink with the length of a run, so only runs of one length are compared: of the length that most
    models were run at, the longest of these.  Stability is cut at the shortest time that any survivor was watched.
    """
    if quantity == STABILITY:
        return _stability_points(main_runs(runs))
    chosen, length = comparable_runs(runs, quantity)
    points = []
    for metrics in chosen:
        results = results_of(metrics)
        result = results[quantity]
        points.append(_point(metrics["run"], results["force_mae"], result["value"], result["stderr"]))
    return _of_models(chosen, points), f"at {length:g} ps" if chosen else "nothing"


def comparable_runs(runs: Sequence[dict[str, Any]], quantity: str) -> tuple[list[dict[str, Any]], float]:
    """Runs whose error of an observable can be compared, one for each model and seed, and their length, ps."""
    groups: dict[float, dict[tuple[Any, ...], dict[str, Any]]] = {}
    # Of several runs of one model and length the one with most replicas.
    for metrics in sorted(own_protocol_runs(runs), key=lambda one: simulated_ps(one["run"])):
        run, results = metrics["run"], results_of(metrics)
        force, result = results.get("force_mae"), results.get(quantity)
        if not force or force["value"] is None or not result or result["value"] is None:
            continue
        length = round(float(run["length_ps"]), 3)
        groups.setdefault(length, {})[(*entry_of(run), seed_of(run))] = metrics
    if not groups:
        return [], 0.0

    def n_models(length: float) -> int:
        return len({entry_of(metrics["run"]) for metrics in groups[length].values()})

    length = max(groups, key=lambda one: (n_models(one), one))
    return list(groups[length].values()), length


def horizon_ps(runs: Sequence[dict[str, Any]]) -> float:
    """Until when stabilities of runs of several lengths can be compared.

    The shortest time that any survivor was watched, or the longest run where none survived.
    """
    watched = [
        float(replica["stable_ps"])
        for metrics in runs
        for replica in metrics["run"]["replicas"]
        if not replica.get("broke")
    ]
    longest = max((float(metrics["run"]["length_ps"]) for metrics in runs), default=0.0)
    return min([*watched, longest])


def stability_until(run: dict[str, Any], horizon: float) -> RestrictedMean:
    """Mean stability of a run's replicas, none of which counts longer than the horizon, ps."""
    replicas = run["replicas"]
    return restricted_mean(
        [float(replica["stable_ps"]) for replica in replicas],
        [bool(replica.get("broke")) for replica in replicas],
        horizon,
    )


def _stability_points(runs: Sequence[dict[str, Any]]) -> tuple[list[Point], str]:
    horizon = horizon_ps(runs)
    used, points = [], []
    for metrics in runs:
        run, force = metrics["run"], results_of(metrics).get("force_mae")
        if not force or force["value"] is None or not run["replicas"] or horizon <= 0:
            continue
        mean = stability_until(run, horizon)
        used.append(metrics)
        points.append(_point(run, force, mean.value_ps, mean.stderr_ps))
    return _of_models(used, points), f"cut at {horizon:g} ps" if points else "nothing"


def _of_models(runs: Sequence[dict[str, Any]], points: Sequence[Point]) -> list[Point]:
    """A point for each model: seeds are not models of their own."""
    groups: dict[tuple[str, str], list[Point]] = {}
    labels = {}
    for metrics, point in zip(runs, points, strict=True):
        groups.setdefault(entry_of(metrics["run"]), []).append(point)
        labels[entry_of(metrics["run"])] = str(metrics["run"].get("entry_label") or point.label)
    found = []
    for entry, group in groups.items():
        if len(group) == 1:
            found.append(group[0])
            continue
        force, force_stderr = _mean([point.force_mae for point in group])
        value, stderr = _mean([point.value for point in group])
        found.append(
            replace(
                group[0],
                label=f"{labels[entry]}, {len(group)} seeds",
                force_mae=force,
                force_stderr=force_stderr,
                value=value,
                stderr=stderr,
            )
        )
    return found


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """With its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def _point(run: dict[str, Any], force: dict[str, Any], value: float, stderr: float | None) -> Point:
    return Point(
        label=str(run.get("label") or run["model"]),
        model=str(run.get("architecture") or run["model"]),
        anchor=str(run.get("anchor") or ""),
        force_mae=float(force["value"]),
        force_stderr=force.get("stderr"),
        value=float(value),
        stderr=stderr,
    )


def paper_points(dataset: str, system: str, quantity: str) -> tuple[list[Point], str] | None:
    """What the paper prints of the same; None where it has no table or no such column."""
    table = paper.paper_table(dataset, system)
    if table is None or quantity not in table.printed:
        return None
    points = []
    for model in paper.MODELS:
        row = paper.paper_row(dataset, system, model)
        results = paper.paper_results(row) if row is not None else {}
        force, result = results.get("force_mae"), results.get(quantity)
        if force is None or result is None or force.value is None or result.value is None:
            continue
        points.append(
            Point(
                label=paper.MODELS[model][0],
                model=model,
                anchor="",
                force_mae=force.value,
                force_stderr=None,
                value=result.value,
                stderr=result.stderr,
            )
        )
    return points, format_ran([table.length_ps] * table.n_simulations)


def paper_quantities(table: paper.PaperTable) -> list[str]:
    """Stability and the errors of observables that a table prints."""
    return [name for name in table.printed if name == STABILITY or heading_of(name)]


def paper_ranking(table: paper.PaperTable, quantity: str) -> Ranking:
    """What the paper's own numbers say."""
    found = paper_points(table.dataset, table.system, quantity)
    points, ran = found if found is not None else ([], "nothing")
    return _ranking(table.dataset, table.system, quantity, PAPER, points, ran)


def _ranking(
    dataset: str, system: str, quantity: str, source: str, points: Sequence[Point], ran: str
) -> Ranking:
    sign = -1.0 if quantity == STABILITY else 1.0
    return Ranking(
        dataset=dataset,
        system=system,
        quantity=quantity,
        heading=heading_of(quantity) or "Stability",
        source=source,
        points=tuple(points),
        ran=ran,
        correlation=rank_correlation(
            [point.force_mae for point in points],
            [sign * point.value for point in points],
            x_stderr=[point.force_stderr for point in points],
            y_stderr=[point.stderr for point in points],
        ),
    )
