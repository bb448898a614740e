"""All figures of a report in reading order, and those of the paper that no run here has the data for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from openmm_mlbench import paper
from openmm_mlbench.report import figures as draw
from openmm_mlbench.report.collection import (
    FULL,
    completeness,
    drawn_together,
    entry_of,
    is_own_structure,
    main_runs,
    model_key,
    seed_of,
    simulated_ps,
    survivors,
)
from openmm_mlbench.report.comparisons import (
    STABILITY,
    comparable_runs,
    heading_of,
    horizon_ps,
    quantities_of,
    stability_until,
)
from openmm_mlbench.report.figures import Bar, StabilityAt, Trade
from openmm_mlbench.report.gaps import Gap, command_for, is_shipped
from openmm_mlbench.report.style import Palette
from openmm_mlbench.report.table import MODES, modes_of, results_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sections in reading order.
SECTIONS = {
    "trade": "Accuracy, stability, speed",
    "force": "Force error against simulation",
    "structure": "Structure",
    "energy": "Free energy",
    "motion": "Diffusion, conservation of energy, time step",
    "collapse": "Collapses",
    "detail": "Forces, bonds, angles",
}
UNITS = {"h_r_mae": "", "rdf_mae_": "Å", "diffusivity_mae": "10⁻⁹ m²/s", "F_": "kJ/mol rad"}
MAX_PANELS = 3
# Training sets of one system, by size.
_SIZES = ((2_000, 0), (20_000, 1), (math.inf, 2))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure with the words around it.

    Args:
        name: of its files.
        section: key of SECTIONS, empty for the figures of a run.
        title: above it.
        caption: beneath it.
        alt: for who cannot see it.
        figure: itself.
        system: it is about.
        models: it shows.
        remakes: number of the paper's figure that it remakes, empty where there is none.
        dataset: it is about.
        anchor: of the run that it belongs to.
        links: targets inside the figure and what they say.
    """

    name: str
    section: str
    title: str
    caption: str
    alt: str
    figure: "Figure"
    system: str
    models: tuple[str, ...]
    remakes: str = ""
    dataset: str = ""
    anchor: str = ""
    links: dict[str, str] = field(default_factory=dict)


class Gallery:
    """Draws everything that the runs have data for; use within ``style.drawing``.

    Args:
        runs: collected ones.
        palette: of the report.
    """

    def __init__(self, runs: Sequence[dict[str, Any]], palette: Palette) -> None:
        self.runs, self.palette = list(runs), palette
        self.drawn: list[Drawn] = []
        self._names: set[str] = set()

    def draw(self) -> list[Drawn]:
        """Every figure, section by section."""
        for system in dict.fromkeys(map(system_of, self.runs)):
            group = [metrics for metrics in self.runs if system_of(metrics) == system]
            self._force(system, group)
            for dataset in dict.fromkeys(str(metrics["run"]["dataset"]) for metrics in group):
                alike = [metrics for metrics in group if metrics["run"]["dataset"] == dataset]
                self._trade(dataset, alike)
                self._structure(dataset, system, alike)
                self._energy(dataset, system, alike)
                self._motion(dataset, system, alike)
                self._detail(dataset, system, alike)
        for metrics in self.runs:
            self._of_run(metrics)
        order = [*SECTIONS, ""]
        self.drawn.sort(key=lambda one: order.index(one.section))
        return self.drawn

    def _add(
        self,
        figure: "Figure | None",
        name: str,
        section: str,
        title: str,
        caption: str,
        runs: Sequence[dict[str, Any]],
        *,
        remakes: str = "",
        anchor: str = "",
        links: dict[str, str] | None = None,
    ) -> None:
        if figure is None:
            return
        shown = list(dict.fromkeys(draw.label_of(metrics) for metrics in runs))
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}-{number}"
        self._names.add(unique)
        self.drawn.append(
            Drawn(
                name=unique,
                section=section,
                title=title,
                caption=caption,
                alt=f"{title}. Shown: {', '.join(shown)}. The numbers behind it are in the tables of this page.",
                figure=figure,
                system=system_of(runs[0]),
                models=tuple(dict.fromkeys(model_key(metrics["run"]) for metrics in runs)),
                # A control is none of the paper's models.
                remakes=remakes if any(metrics["run"].get("architecture") for metrics in runs) else "",
                dataset=str(runs[0]["run"]["dataset"]),
                anchor=anchor,
                links=links or {},
            )
        )

    def _trade(self, dataset: str, alike: list[dict[str, Any]]) -> None:
        runs = [metrics for metrics in drawn_together(alike) if trade_of(metrics, math.inf) is not None]
        if len(runs) < 2:
            return
        # Runs of several lengths over the time that all were watched.
        horizon = horizon_ps(runs)
        trades = [trade for metrics in runs if (trade := trade_of(metrics, horizon)) is not None]
        caption = (
            f"Right and down is better, a larger point was stable for more of the first {horizon:g} ps, as long as all "
            "survivors were watched. Ringed: no other run is as good in all three and better in one. A point leads to "
            "its run. Speeds are of the machines the runs were made on."
        )
        links = {f"#{trade.anchor}": _trade_text(trade) for trade in trades if trade.anchor}
        self._add(
            draw.plot_pareto(trades, self.palette),
            f"pareto-{_word(dataset)}",
            "trade",
            f"{dataset}: force error, speed and stability",
            caption,
            alike,
            links=links,
        )

    def _force(self, system: str, group: list[dict[str, Any]]) -> None:
        mains = [metrics for metrics in main_runs(group) if _value(metrics, "force_mae") is not None]
        for dataset in dict.fromkeys(str(metrics["run"]["dataset"]) for metrics in mains):
            alike = [metrics for metrics in mains if metrics["run"]["dataset"] == dataset]
            every = [metrics for metrics in group if metrics["run"]["dataset"] == dataset]
            if len(alike) < 2:
                continue
            alike.sort(key=lambda metrics: -float(_value(metrics, "force_mae") or 0.0))
            quantities = ["force_mae", *quantities_of(alike)[: 1 + MAX_PANELS]]
            panels = [
                (axis_title(quantity), [_comparable_bar(metrics, quantity, every) for metrics in alike])
                for quantity in quantities
            ]
            self._add(
                draw.plot_head_to_head(panels, self.palette),
                f"head-to-head-{_word(dataset)}",
                "force",
                f"{dataset}: models side by side, the largest force error first",
                "Bars with 95 % intervals; hatched: shorter than the protocol; an arrow: a lower bound. Errors of observables "
                "shrink with the length of a run, so they are of runs of one length. Diamonds: the paper.",
                alike,
                remakes="1" if dataset == "water-10k" else "3" if system in MD17 else "",
            )
        if not mains:
            return
        several = len({str(metrics["run"]["dataset"]) for metrics in mains}) > 1
        for quantity in quantities_of(mains):
            compared, length = mains, 0.0
            if quantity != STABILITY:
                compared, length = comparable_runs(group, quantity)
            bars = [bar_of(metrics, quantity, sized=several) for metrics in compared]
            bars = [bar for bar in bars if bar.value is not None]
            printed = _printed_bars(mains, quantity, sized=several)
            if not bars or len(bars) + len(printed) < 2:
                continue
            caption = "Filled: these runs, pale where shorter than the protocol; hollow: the paper. Bars: 95 % intervals."
            caption += (
                " An arrow: a lower bound."
                if quantity == STABILITY
                else f" Errors shrink with the length of a run: these runs are all of {length:g} ps."
            )
            caption += " The larger the point, the larger the training set." if several else ""
            self._add(
                draw.plot_scatter(
                    axis_title(quantity), bars, printed, self.palette, _common_floor(compared, quantity)
                ),
                f"force-{quantity.lower()}-{_word(system)}",
                "force",
                f"{title_of(system)}: force MAE against {heading_of(quantity) or 'stability'}",
                caption,
                mains,
                remakes="4" if system == "water" else "",
            )

    def _structure(self, dataset: str, system: str, alike: list[dict[str, Any]]) -> None:
        alike = drawn_together(alike)
        source = next((m["run"]["reference"] for m in alike if m["run"].get("reference")), None) or {}
        origin = f" Reference: {source['source']}" if source.get("source") else ""
        self._add(
            draw.plot_h_r(alike, self.palette),
            f"h-r-{_word(dataset)}",
            "structure",
            f"{dataset}: interatomic distances h(r)",
            f"Over the stable part, mean over replicas; below, its difference from the reference.{origin}",
            _having(alike, "h_r_mae"),
            remakes="9" if system in MD17 else "",
        )
        modes = modes_of(alike)
        for mode in modes:
            of_mode = f", mode {mode}" if modes != MODES[:1] else ""
            for label, figure in draw.plot_rdfs(alike, mode, self.palette).items():
                pair = "all atoms" if label == "all" else label
                self._add(
                    figure,
                    f"rdf-{_word(label)}-{_word(dataset)}-{mode}",
                    "structure",
                    f"{dataset}: RDF of {pair}{of_mode}",
                    "g(r) over the stable part, mean over replicas; below, its difference from the reference of the same mode.",
                    _having(alike, "rdf"),
                    remakes=RDF_FIGURES.get(dataset, ""),
                )

    def _energy(self, dataset: str, system: str, alike: list[dict[str, Any]]) -> None:
        remakes = "5" if system == "alanine-dipeptide" else ""
        having = _having(alike, "free_energy")
        for metrics in having:
            self._add(
                draw.plot_ramachandran(metrics),
                f"ramachandran-{str(metrics['run'].get('anchor') or dataset).removeprefix('run-')}",
                "energy",
                f"{dataset}: F(φ, ψ) of {metrics['run'].get('label') or metrics['run']['model']}",
                "Minus the hills of all replicas together, beside the reference, on one scale. White or black: never visited.",
                [metrics],
                remakes=remakes,
            )
        for angle, figure in draw.plot_free_energy(alike, self.palette).items():
            self._add(
                figure,
                f"free-energy-{ {'φ': 'phi', 'ψ': 'psi'}[angle] }-{_word(dataset)}",
                "energy",
                f"{dataset}: free energy along {angle}",
                "A line for each replica, each with its minimum at 0; of runs that are too short, as far as they came. "
                "A bin that no hill reached has the highest value, a lower bound.",
                having,
                remakes=remakes,
            )

    def _motion(self, dataset: str, system: str, alike: list[dict[str, Any]]) -> None:
        self._add(
            draw.plot_diffusion(alike, self.palette),
            f"msd-{_word(dataset)}",
            "motion",
            f"{dataset}: mean squared displacement",
            "Of the atoms whose diffusivity is measured, drift removed; a line for each replica. Its slope is 6 D.",
            _having(alike, "diffusivity"),
        )
        self._add(
            draw.plot_energies(alike, self.palette),
            f"energy-{_word(dataset)}",
            "motion",
            f"{dataset}: total energy without a thermostat",
            "Potential and kinetic energy per atom around their mean: a conservative model keeps their sum.",
            _having(alike, "drift"),
            remakes="5 d" if system == "lips" else "",
        )
        series = timestep_series(alike)
        if series:
            self._add(
                draw.plot_timesteps(series, self.palette),
                f"timestep-{_word(dataset)}",
                "motion",
                f"{dataset}: stability against the time step",
                "Restricted mean with its 95 % interval, all runs of a model cut at the same time; an arrow: a lower bound.",
                [m for m in alike if model_key(m["run"]) in {model for _, model, _ in series}],
                remakes="5 e" if system == "water" else "",
            )

    def _detail(self, dataset: str, _: str, alike: list[dict[str, Any]]) -> None:
        alike = drawn_together(alike)
        for name, what in (("force parity", "forces"), ("energy parity", "energies")):
            self._add(
                draw.plot_parity(alike, name, self.palette),
                f"{what}-{_word(dataset)}",
                "detail",
                f"{dataset}: predicted against true {what}",
                f"On test frames, at most {draw.MAX_SCATTER} points of each model"
                + ("; the mean true energy is subtracted from both." if what == "energies" else "."),
                _having(alike, "force_mae"),
            )
        for observable, what in (
            ("bonds", "bond lengths"),
            ("angles", "bond angles"),
            ("dihedrals", "dihedrals"),
        ):
            self._add(
                draw.plot_distributions(alike, observable, self.palette),
                f"{observable}-{_word(dataset)}",
                "detail",
                f"{dataset}: {what}",
                "Distributions over the stable part of all replicas, each scaled to its highest point, over those of the "
                "frames of the data set.",
                _having(alike, observable),
            )

    def _of_run(self, metrics: dict[str, Any]) -> None:
        run = metrics["run"]
        label = str(run.get("label") or run["model"])
        anchor = str(run.get("anchor") or "")
        rdf = run.get("criterion") == "rdf"
        what = (
            "Deviation of the RDFs of each window from the reference, the worst pair"
            if rdf
            else "Largest deviation of any bond from its reference length"
        )
        name = anchor.removeprefix("run-") or _word(label)
        for figure, kind, title, caption in (
            (
                draw.plot_bond_deviation(metrics),
                "stability",
                f"{'RDFs against time' if rdf else 'Bonds'} of {label}",
                f"{what}, the largest value of each interval drawn. A replica is stable until it first crosses the dashed line.",
            ),
            (
                draw.plot_temperature(metrics),
                "temperature",
                f"Temperature of {label}",
                "Bold: mean since the start; faint: as logged. The temperature of few atoms fluctuates widely.",
            ),
            (
                draw.plot_drifts(metrics),
                "energy",
                f"Total energy of {label}",
                "Potential and kinetic energy per atom around their mean, without a thermostat.",
            ),
        ):
            self._add(figure, f"run-{name}-{kind}", "", title, caption, [metrics], anchor=anchor)
        collapsed = [member for member in run["replicas"] if member.get("collapse")]
        for number, member in enumerate(collapsed):
            self._add(
                draw.plot_collapse(member),
                f"collapse-{name}-{member['index']}",
                # One of each run among the figures of the paper, all in the run's own section.
                "collapse" if number == 0 else "",
                f"How {label} collapsed, replica {member['index']}",
                f"{member['collapse']['message']}. Largest force on any atom: dots for frames, a line for every step around "
                "the first offending one; beneath, the atoms around it, the offending pair in red.",
                [metrics],
                remakes="6" if number == 0 and system_of(metrics) in ("water", "alanine-dipeptide") else "",
                anchor=anchor,
            )


MD17 = ("aspirin", "ethanol", "naphthalene", "salicylic-acid")
RDF_FIGURES = {"water-1k": "10", "water-10k": "11", "water-90k": "12", "lips": "13"}


def system_of(metrics: dict[str, Any]) -> str:
    """A system of the package, or the protocol of a structure of somebody's own."""
    run = metrics["run"]
    return str(run["protocol"]) if is_own_structure(run) or not run.get("system") else str(run["system"])


def title_of(system: str) -> str:
    """As a heading prints it."""
    return {"lips": "LiPS"}.get(system, system.replace("-", " ").capitalize())


def _word(text: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return "-".join(filter(None, kept.split("-"))) or "x"


def axis_title(quantity: str) -> str:
    """Heading and unit of a result, for an axis."""
    if quantity == "force_mae":
        return "force MAE\nmeV/Å"
    if quantity == STABILITY:
        return "stability / ps"
    unit = next((unit for start, unit in UNITS.items() if quantity.startswith(start)), "")
    return f"{heading_of(quantity)}" + (f"\n{unit}" if unit else "")


def _value(metrics: dict[str, Any], name: str) -> float | None:
    found = results_of(metrics).get(name)
    return None if found is None or found["value"] is None else float(found["value"])


def half_width_95(stderr: float | None, n: int | None) -> float:
    """Of the 95 % interval by Student's t; 0 where there is no standard error."""
    if not stderr:
        return 0.0
    from scipy.stats import t

    return float(stderr * (t.ppf(0.975, n - 1) if n is not None and n > 1 else 1.96))


def bar_of(metrics: dict[str, Any], quantity: str, *, sized: bool = False) -> Bar:
    """One number of a run, ready to be drawn."""
    run, result = metrics["run"], results_of(metrics).get(quantity) or {}
    # The force MAE has its standard error over very many frames.
    n = None if quantity == "force_mae" else result.get("n_replicas")
    row = _paper_row(run)
    printed = None if row is None else row.printed.get(quantity)
    n_train = run.get("n_train") or 0
    return Bar(
        label=draw.label_of(metrics),
        model=model_key(run),
        value=result.get("value"),
        half_width=half_width_95(result.get("stderr"), n),
        paper=None if printed is None else printed.value,
        bound=quantity == STABILITY and survivors(run) > 0 and result.get("value") is not None,
        pale=completeness(run) != FULL,
        force_mae=_value(metrics, "force_mae") or math.nan,
        size=_size_of(n_train) if sized else 1,
    )


def _size_of(n_train: float) -> int:
    return next(size for limit, size in _SIZES if n_train < limit)


def _paper_row(run: dict[str, Any]) -> paper.PaperRow | None:
    if is_own_structure(run):
        return None
    return paper.paper_row(str(run["dataset"]), run.get("system") or "", run.get("architecture") or "")


def _printed_bars(mains: Sequence[dict[str, Any]], quantity: str, *, sized: bool) -> list[Bar]:
    """The paper's points of the tables that these runs stand beside, all models of each."""
    found = []
    for table in dict.fromkeys(
        row.table.dataset for row in map(_paper_row, (metrics["run"] for metrics in mains)) if row
    ):
        for model in paper.MODELS:
            row = paper.paper_row(table, "", model)
            if row is None or quantity not in row.printed or "force_mae" not in row.printed:
                continue
            found.append(
                Bar(
                    label=row.label,
                    model=model,
                    value=row.printed[quantity].value,
                    force_mae=row.printed["force_mae"].value,
                    size=_size_of(row.table.n_train) if sized else 1,
                )
            )
    return found


def _having(runs: Sequence[dict[str, Any]], observable: str) -> list[dict[str, Any]]:
    return [metrics for metrics in runs if draw.curves_of(metrics, observable)]


def _comparable_bar(metrics: dict[str, Any], quantity: str, every: Sequence[dict[str, Any]]) -> Bar:
    """A number of a model, of the run that can be compared with other models' where its main run cannot."""
    if quantity not in ("force_mae", STABILITY):
        alike, _ = comparable_runs(every, quantity)
        own = (*entry_of(metrics["run"]), seed_of(metrics["run"]))
        known = {(*entry_of(other["run"]), seed_of(other["run"])): other for other in alike}
        if own not in known:
            return replace(bar_of(metrics, quantity), value=None, half_width=0.0, bound=False)
        return replace(bar_of(known[own], quantity), label=draw.label_of(metrics))
    return bar_of(metrics, quantity)


def _common_floor(runs: Sequence[dict[str, Any]], quantity: str) -> float | None:
    """The error of a perfect model in runs of this length, where all have the same."""
    floors = {(results_of(metrics).get(quantity) or {}).get("floor") for metrics in runs}
    floor = next(iter(floors), None)
    return float(floor) if len(floors) == 1 and floor is not None else None


def trade_of(metrics: dict[str, Any], horizon: float) -> Trade | None:
    """A run between accuracy, stability until the horizon (ps) and speed; None where one of the three is unknown."""
    run = metrics["run"]
    force, speed = _value(metrics, "force_mae"), _value(metrics, "steps_per_second")
    if not force or not speed or not run["replicas"] or not run.get("architecture"):
        return None
    horizon = min(horizon, horizon_ps([metrics]))
    if horizon <= 0:
        return None
    return Trade(
        label=draw.label_of(metrics),
        model=model_key(run),
        anchor=str(run.get("anchor") or ""),
        force_mae=force,
        steps_per_second=speed,
        stable_share=min(stability_until(run, horizon).value_ps / horizon, 1.0),
        horizon_ps=horizon,
    )


def _trade_text(trade: Trade) -> str:
    return (
        f"{trade.label}: force MAE {trade.force_mae:.3g} meV/Å, {trade.steps_per_second:.3g} steps/s, "
        f"stable for {trade.stable_share:.0%} of the first {trade.horizon_ps:g} ps"
    )


def timestep_series(alike: Sequence[dict[str, Any]]) -> list[tuple[str, str, list[StabilityAt]]]:
    """Models that were run at two or more time steps with one thermostat.

    Runs of several lengths are cut at the shortest time that any survivor was watched.
    """
    found: dict[str, dict[float, dict[str, Any]]] = {}
    for metrics in alike:
        run = metrics["run"]
        word = str(run["protocol"]).removeprefix(str(run.get("system") or "")).strip("-")
        other = bool(word) and not word.startswith("dt")
        if other or run.get("timestep_fs") is None or not run["replicas"] or is_own_structure(run):
            continue
        of_model = found.setdefault(model_key(run), {})
        step = float(run["timestep_fs"])
        if step not in of_model or simulated_ps(run) > simulated_ps(of_model[step]["run"]):
            of_model[step] = metrics
    return [
        (
            f"{_model_name(next(iter(runs.values()))['run'])}, first {horizon:g} ps",
            model,
            [_stability_at(step, runs[step]["run"], horizon) for step in sorted(runs)],
        )
        for model, runs in found.items()
        if len(runs) > 1 and (horizon := horizon_ps(list(runs.values()))) > 0
    ]


def _model_name(run: dict[str, Any]) -> str:
    known = paper.MODELS.get(run.get("architecture") or "")
    return known[0] if known else str(run["model"])


def _stability_at(step_fs: float, run: dict[str, Any], horizon: float) -> StabilityAt:
    mean = stability_until(run, horizon)
    return StabilityAt(
        timestep_fs=step_fs,
        value_ps=mean.value_ps,
        half_width_ps=half_width_95(mean.stderr_ps, len(run["replicas"])),
        # Somebody is still stable at the horizon.
        bound=max(float(replica["stable_ps"]) for replica in run["replicas"]) >= horizon,
    )


def missing_figures(runs: Sequence[dict[str, Any]], drawn: Sequence[Drawn]) -> list[Gap]:
    """Figures of the paper that are not remade here, each with what fills it."""
    learned = [metrics for metrics in runs if metrics["run"].get("architecture")]
    have = {
        (one.remakes, one.dataset) for one in drawn if one.remakes and set(one.models) & set(paper.MODELS)
    }
    systems_with = {(figure, _system_of_dataset(dataset, runs)) for figure, dataset in have}
    gaps = []
    for figure, title, dataset, system, models, variant in _paper_figures():
        if (figure, dataset) in have or (figure not in OF_ONE_SIZE and (figure, system) in systems_with):
            continue
        known = {
            metrics["run"]["architecture"]
            for metrics in learned
            if metrics["run"]["dataset"] == dataset
            and (not variant or str(metrics["run"]["protocol"]).endswith(variant))
        }
        absent = sorted(
            (model for model in models if model not in known), key=lambda m: not is_shipped(dataset, m)
        )
        gaps.append(
            Gap(
                figure=figure,
                title=title,
                dataset=dataset,
                why="no run collapsed here"
                if figure == "6" and not absent
                else "no such run here"
                if not known
                else f"{len(known)} of {len(models)} models were run",
                commands=tuple(
                    command_for(dataset, system, model, variant) for model in absent or models[:1]
                ),
            )
        )
    return gaps


# Figures of one of several training sets of a system; of the others any will do.
OF_ONE_SIZE = ("1", "10", "11", "12")


def _system_of_dataset(dataset: str, runs: Sequence[dict[str, Any]]) -> str:
    return next((system_of(metrics) for metrics in runs if metrics["run"]["dataset"] == dataset), dataset)


def _paper_figures() -> list[tuple[str, str, str, str, tuple[str, ...], str]]:
    """Figure, title, data set, system, models and variant of the protocol behind each figure of the paper."""
    every = tuple(paper.MODELS)
    alanine = ("alanine-dipeptide-explicit", "alanine-dipeptide")
    found = [("1", "Models side by side", "water-10k", "water", every, "")]
    found += [("3", "Models side by side", name, name, every, "") for name in MD17]
    found += [("4", "Force MAE against stability, RDF and diffusivity", "water-1k", "water", every, "")]
    found += [("5", "Ramachandran map, F(φ) and F(ψ)", *alanine, ("nequip",), "")]
    found += [("5 d", "Total energy without a thermostat", "lips", "lips", every, "nve")]
    found += [("5 e", "Stability against the time step", "water-10k", "water", ("gemnet-t",), "dt0.5")]
    found += [
        ("6", "Collapse, with the structures around it", *alanine, ("nequip",), ""),
        ("6", "Collapse, with the structures around it", "water-10k", "water", ("gemnet-t",), ""),
    ]
    found += [("9", "h(r)", name, name, every, "") for name in MD17]
    found += [
        (number, "RDFs", dataset, "lips" if dataset == "lips" else "water", every, "")
        for dataset, number in RDF_FIGURES.items()
    ]
    return found
