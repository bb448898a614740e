"""Figures of a report; they draw what was measured and compute nothing but their scales.

Each function makes a figure one column wide, or returns None where nothing of it was measured.
All are drawn within ``style.drawing``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.report.collection import model_key
from openmm_mlbench.report.style import (
    GROUND,
    INK,
    LIMIT,
    REPLICA_DASHES,
    SOFT,
    WIDTH,
    ModelStyle,
    Palette,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Runs = Sequence[dict[str, Any]]
# A bond that flew apart would flatten everything else; the picture ends here, in units of the threshold.
MAX_DEVIATION = 3.0
# Points of a line: more are not seen at this width.
MAX_POINTS = 300
# Of a parity plot, of each model.
MAX_SCATTER = 500
# Of one distribution among several, where the next begins at 1.
_ROW_HEIGHT = 0.92
_LABEL = 40


@dataclass(frozen=True, kw_only=True)
class StabilityAt:
    """Stability at one time step.

    Args:
        timestep_fs: of the integrator.
        value_ps: restricted mean.
        half_width_ps: of its 95 % interval, 0 where unknown.
        bound: whether somebody outlived the simulation.
    """

    timestep_fs: float
    value_ps: float
    half_width_ps: float
    bound: bool


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a head-to-head comparison, or one point of a scatter plot.

    Args:
        label: of the model.
        model: for its colour.
        value: height; None where there is none.
        half_width: of its 95 % interval, 0 where unknown.
        paper: what the paper has, None where it has nothing.
        bound: whether the value is a lower bound.
        pale: whether the run is shorter than its protocol.
        force_mae: of the model, meV/A.
        size: of its training set, 0 to 2.
    """

    label: str
    model: str
    value: float | None
    half_width: float = 0.0
    paper: float | None = None
    bound: bool = False
    pale: bool = False
    force_mae: float = math.nan
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Trade:
    """One run between accuracy, stability and speed.

    Args:
        label: of the model.
        model: for its colour.
        anchor: of its run.
        force_mae: meV/A.
        steps_per_second: of its simulation.
        stable_share: of the time until the horizon, 0 to 1.
        horizon_ps: until when all were watched.
    """

    label: str
    model: str
    anchor: str
    force_mae: float
    steps_per_second: float
    stable_share: float
    horizon_ps: float = 0.0

    def beats(self, other: "Trade") -> bool:
        """As good in all three, better in one."""
        mine = (-self.force_mae, self.steps_per_second, self.stable_share)
        theirs = (-other.force_mae, other.steps_per_second, other.stable_share)
        return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def unbeaten(trades: Sequence[Trade]) -> list[bool]:
    """Of each whether nobody beats it: the Pareto front."""
    return [not any(other.beats(trade) for other in trades) for trade in trades]


def curves_of(metrics: dict[str, Any], observable: str, mode: str | None = None) -> dict[str, Any]:
    """Curves of one observable, in one mode or in the first that has it; empty where it was not measured."""
    for measurement in metrics["measurements"]:
        if measurement["observable"] == observable and mode in (None, measurement["mode"]):
            return dict(measurement["curves"])
    return {}


def maps_of(metrics: dict[str, Any], observable: str) -> dict[str, Any]:
    """Maps of one observable, in the first mode that has any."""
    for measurement in metrics["measurements"]:
        if measurement["observable"] == observable and measurement.get("maps"):
            return dict(measurement["maps"])
    return {}


def label_of(metrics: dict[str, Any]) -> str:
    """What a run is called in a legend, no longer than fits one."""
    label = str(metrics["run"].get("label") or metrics["run"]["model"])
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def new_figure(
    rows: int = 1, columns: int = 1, *, height: float = 2.5, **settings: Any
) -> "tuple[Figure, NDArray[Any]]":
    """A figure one column wide with a grid of axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False, **settings))


def add_legend(figure: "Figure", *axes: "Axes") -> None:
    """One legend beneath everything, in as many columns as its words leave room for."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        longest = max(map(len, found))
        columns = max(1, min(3, len(found), 62 // (longest + 8)))
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)


def _line_style(metrics: dict[str, Any], palette: Palette, before: dict[str, int]) -> dict[str, Any]:
    """Colour and dash of a run; further runs of one model keep its colour."""
    key = model_key(metrics["run"])
    style, number = palette[key], before.get(key, 0)
    before[key] = number + 1
    others = [dash for dash in REPLICA_DASHES if dash != style.dash]
    dash = style.dash if number == 0 else others[(number - 1) % len(others)]
    return {"color": style.light, "linestyle": dash}


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _thinned(curve: dict[str, Any], keep: str = "every") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A curve of no more points than are seen; ``largest``: of each interval its largest value."""
    x, y = _numbers(curve["x"]), _numbers(curve["y"])
    if len(x) <= MAX_POINTS:
        return x, y
    starts = np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(np.int64)
    if keep == "largest":
        # What is not finite is the largest there is.
        return x[starts], np.maximum.reduceat(np.where(np.isfinite(y), y, np.inf), starts)
    return x[starts], y[starts]


def plot_h_r(runs: Runs, palette: Palette) -> "Figure | None":
    """h(r) of every model trained on one data set over the reference; below, the difference (paper, Figure 9)."""
    drawn = [(metrics, curves_of(metrics, "h_r_mae")) for metrics in runs]
    drawn = [(metrics, curves) for metrics, curves in drawn if "mean" in curves]
    if not drawn:
        return None
    figure, axes = new_figure(2, height=3.3, sharex=True, height_ratios=[0.68, 0.32])
    top, bottom = axes[:, 0]
    for name, width, dash in (("reference", 2.2, "-"), ("canonical reference", 0.9, ":")):
        known = next((curves[name] for _, curves in drawn if name in curves), None)
        if known:
            top.plot(known["x"], known["y"], color=INK, lw=width, ls=dash, label=name)
    before: dict[str, int] = {}
    for metrics, curves in drawn:
        style = _line_style(metrics, palette, before)
        top.plot(curves["mean"]["x"], curves["mean"]["y"], label=label_of(metrics), **style)
        if "difference" in curves:
            bottom.plot(curves["difference"]["x"], curves["difference"]["y"], **style)
    top.set_xlim(*_occupied([curves["mean"] for _, curves in drawn]))
    top.set_ylim(bottom=0)
    top.set_ylabel("h(r) / Å⁻¹")
    bottom.set(xlabel="distance r / Å", ylabel="Δh / Å⁻¹")
    add_legend(figure, top)
    return figure


def _occupied(curves: list[dict[str, Any]]) -> tuple[float, float]:
    """The distances where there is anything to see."""
    occupied = [x for curve in curves for x, y in zip(curve["x"], curve["y"], strict=True) if y]
    return (max(min(occupied) - 0.2, 0.0), max(occupied) + 0.2) if occupied else (0.0, 10.0)


def plot_rdfs(runs: Runs, mode: str, palette: Palette) -> "dict[str, Figure]":
    """For each pair g(r) of every model over the reference of the same mode (paper, Figures 10 to 13)."""
    drawn = [(metrics, curves_of(metrics, "rdf", mode)) for metrics in runs]
    labels = dict.fromkeys(
        name for _, curves in drawn for name in curves if " " not in name and f"coordination {name}" in curves
    )
    return {label: _plot_rdf(label, drawn, palette) for label in labels}


def _plot_rdf(label: str, drawn: list[tuple[dict[str, Any], dict[str, Any]]], palette: Palette) -> "Figure":
    figure, axes = new_figure(2, height=3.2, sharex=True, height_ratios=[0.68, 0.32])
    top, bottom = axes[:, 0]
    reference = next(
        (curves[f"reference {label}"] for _, curves in drawn if f"reference {label}" in curves), None
    )
    if reference:
        top.plot(reference["x"], reference["y"], color=INK, lw=2.2, label="reference")
    before: dict[str, int] = {}
    highest = []
    for metrics, curves in drawn:
        if label not in curves:
            continue
        style, own = _line_style(metrics, palette, before), curves[label]
        top.plot(own["x"], own["y"], label=label_of(metrics), **style)
        highest.append(max((y for x, y in zip(own["x"], own["y"], strict=True) if x > 1.5), default=1.0))
        if reference and reference["x"] == own["x"]:
            difference = np.subtract(own["y"], reference["y"])
            bottom.plot(own["x"], difference, **style)
            beyond = np.array(own["x"]) > 1.5
            bottom.set_ylim(*_around([*bottom.get_ylim(), *(1.1 * difference[beyond])], len(highest) == 1))
    if highest:
        # The peaks of bonds within a molecule would flatten what is between molecules.
        top.set_ylim(0, 1.15 * max(highest))
    top.set_ylabel(f"g(r), {'all atoms' if label == 'all' else label}")
    bottom.set(xlabel="distance r / Å", ylabel="Δg")
    add_legend(figure, top)
    return figure


def _around(values: Sequence[float], first: bool) -> tuple[float, float]:
    """Limits that hold these values; of the first curve those of the axes do not count."""
    used = list(values)[2:] if first else list(values)
    low, high = min(used, default=-1.0), max(used, default=1.0)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def plot_free_energy(runs: Runs, palette: Palette) -> "dict[str, Figure]":
    """F along each biased angle: a line for each replica of each model, over the reference (paper, Figure 5 b)."""
    figures = {}
    for name, letter in (("phi", "φ"), ("psi", "ψ")):
        found = [
            (
                metrics,
                [c for n, c in curves_of(metrics, "free_energy").items() if n.startswith(f"F_{name}")],
            )
            for metrics in runs
        ]
        if not any(lines for _, lines in found):
            continue
        figure, axes = new_figure(height=2.4)
        ax = axes[0, 0]
        reference = next(
            (
                curves[f"reference F_{name}"]
                for curves in (curves_of(metrics, "free_energy") for metrics in runs)
                if f"reference F_{name}" in curves
            ),
            None,
        )
        if reference:
            ax.plot(reference["x"], reference["y"], color=INK, lw=2.2, label="reference")
        before: dict[str, int] = {}
        for metrics, lines in found:
            style = _line_style(metrics, palette, before)
            for i, curve in enumerate(lines):
                ax.plot(curve["x"], curve["y"], label=label_of(metrics) if i == 0 else None, **style)
        ax.set(xlabel=f"{letter} / rad", ylabel=f"F({letter}) / kJ/mol", xlim=(-np.pi, np.pi))
        ax.set_ylim(bottom=0)
        add_legend(figure, ax)
        figures[letter] = figure
    return figures


def plot_ramachandran(metrics: dict[str, Any]) -> "Figure | None":
    """F(φ, ψ) of the reference and of a model on one scale (paper, Figure 5 a)."""
    maps = maps_of(metrics, "free_energy")
    if "mean" not in maps:
        return None
    names = [name for name in ("reference", "mean") if name in maps]
    figure, axes = new_figure(1, len(names), height=2.1, sharey=True)
    surfaces = [np.array([_numbers(row) for row in maps[name]["z"]]) for name in names]
    highest = max((float(np.nanquantile(one, 0.95)) for one in surfaces if np.isfinite(one).any()), default=1)
    images = []
    for ax, name, surface in zip(axes[0], names, surfaces, strict=True):
        image = ax.imshow(
            surface.T,
            origin="lower",
            extent=(-np.pi, np.pi, -np.pi, np.pi),
            cmap="cividis",
            vmin=0,
            vmax=highest,
            interpolation="nearest",
            aspect="equal",
        )
        images.append(image)
        ax.grid(visible=False)
        ax.set(xlabel="φ / rad", xticks=[-3, 0, 3], yticks=[-3, 0, 3])
        ax.set_title("reference" if name == "reference" else "this run")
    axes[0, 0].set_ylabel("ψ / rad")
    bar = figure.colorbar(images[0], ax=list(axes[0]), shrink=0.8, pad=0.02)
    bar.set_label("F / kJ/mol")
    bar.outline.set_visible(False)
    return figure


def plot_distributions(runs: Runs, observable: str, palette: Palette) -> "Figure | None":
    """Distributions of bonds, angles or dihedrals, one above the other, of every model over the reference.

    Each kind has a base line of its own and is scaled to the highest of its curves.
    """
    drawn = [(metrics, curves_of(metrics, observable)) for metrics in runs]
    drawn = [(metrics, curves) for metrics, curves in drawn if curves]
    if not drawn:
        return None
    labels = list(
        dict.fromkeys(name for _, curves in drawn for name in curves if not name.startswith("reference "))
    )
    figure, axes = new_figure(height=1.3 + 0.34 * max(len(labels), 3))
    ax = axes[0, 0]
    before: dict[str, int] = {}
    styles = [_line_style(metrics, palette, before) for metrics, _ in drawn]
    for row, label in enumerate(reversed(labels)):
        known = next(
            (curves[f"reference {label}"] for _, curves in drawn if f"reference {label}" in curves), None
        )
        lines: list[tuple[str, Any, dict[str, Any]]] = [("reference", known, {"color": INK, "lw": 2.0})]
        lines += [
            (label_of(metrics), curves.get(label), style)
            for (metrics, curves), style in zip(drawn, styles, strict=True)
        ]
        highest = max((max(curve["y"]) for _, curve, _ in lines if curve), default=0.0) or 1.0
        for name, curve, style in lines:
            if curve is None:
                continue
            x, y = _seen(curve)
            ax.plot(
                x,
                [row + _ROW_HEIGHT * value / highest for value in y],
                label=name if row == len(labels) - 1 else None,
                **style,
            )
    what = {"bonds": "bond length / Å", "angles": "angle / °", "dihedrals": "dihedral / °"}[observable]
    ax.set(xlabel=what, ylim=(-0.1, len(labels)))
    ax.set_yticks(range(len(labels)), list(reversed(labels)))
    add_legend(figure, ax)
    return figure


def _seen(curve: dict[str, Any]) -> tuple[list[float], list[float]]:
    """The part of a curve where anything is, with a zero on either side."""
    inside = [i for i, y in enumerate(curve["y"]) if y]
    low, high = (max(inside[0] - 1, 0), inside[-1] + 2) if inside else (0, 0)
    return curve["x"][low:high], curve["y"][low:high]


def plot_parity(runs: Runs, name: str, palette: Palette) -> "Figure | None":
    """Predicted against true values on test frames: ``force parity``, eV/A, or ``energy parity``, eV."""
    found = [(metrics, curves_of(metrics, "force_mae").get(name)) for metrics in runs]
    # A model has one test set, however often it was simulated.
    drawn = {metrics["run"]["model"]: (metrics, curve) for metrics, curve in reversed(found) if curve}
    if not drawn:
        return None
    what, unit = ("force", "eV/Å") if name == "force parity" else ("energy", "eV")
    figure, axes = new_figure(height=2.9)
    ax = axes[0, 0]
    ends = [edge(curve["x"]) for edge in (min, max) for _, curve in drawn.values()]
    ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, lw=0.8, ls="--", label="equal")
    for metrics, curve in reversed(drawn.values()):
        style = palette[model_key(metrics["run"])]
        every = max(1, len(curve["x"]) // MAX_SCATTER)
        # As many points as markers would make a heavy page; they become pixels.
        ax.plot(
            curve["x"][::every],
            curve["y"][::every],
            style.marker,
            ms=2.2,
            mew=0,
            alpha=0.55,
            color=style.light,
            label=label_of(metrics),
            rasterized=True,
        )
    ax.set(xlabel=f"true {what} / {unit}", ylabel=f"predicted {what} / {unit}")
    add_legend(figure, ax)
    return figure


def plot_diffusion(runs: Runs, palette: Palette) -> "Figure | None":
    """Mean squared displacement against the lag, a line for each replica of each model."""
    found = [
        (metrics, [c for n, c in curves_of(metrics, "diffusivity").items() if n.startswith("MSD")])
        for metrics in runs
    ]
    if not any(lines for _, lines in found):
        return None
    figure, axes = new_figure(height=2.4)
    ax = axes[0, 0]
    before: dict[str, int] = {}
    for metrics, lines in found:
        style = _line_style(metrics, palette, before) if lines else {}
        for i, curve in enumerate(lines):
            ax.plot(*_thinned(curve), label=label_of(metrics) if i == 0 else None, **style)
    ax.set(xlabel="lag / ps", ylabel="MSD / Å²")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    add_legend(figure, ax)
    return figure


def plot_energies(runs: Runs, palette: Palette) -> "Figure | None":
    """Total energy per atom of every run at constant energy (paper, Figure 5 d)."""
    found = [(metrics, curves_of(metrics, "drift")) for metrics in runs]
    found = [(metrics, curves) for metrics, curves in found if curves]
    if not found:
        return None
    figure, axes = new_figure(height=2.4)
    ax = axes[0, 0]
    before: dict[str, int] = {}
    for metrics, curves in found:
        style = _line_style(metrics, palette, before)
        for i, curve in enumerate(curves.values()):
            ax.plot(*_thinned(curve), label=label_of(metrics) if i == 0 else None, **style)
    ax.set(xlabel="time / ps", ylabel="total energy around\nits mean / kJ/mol/atom")
    ax.set_xlim(left=0)
    add_legend(figure, ax)
    return figure


def plot_timesteps(series: Sequence[tuple[str, str, list[StabilityAt]]], palette: Palette) -> "Figure":
    """Stability against the time step (paper, Figure 5 e).

    Args:
        series: label, model and points of each model.
        palette: of the report.
    """
    figure, axes = new_figure(height=2.4)
    ax = axes[0, 0]
    for label, model, points in series:
        style = palette[model]
        x = [point.timestep_fs for point in points]
        y = [point.value_ps for point in points]
        error = [point.half_width_ps for point in points]
        ax.errorbar(
            x,
            y,
            error,
            color=style.light,
            marker=style.marker,
            ls=style.dash,
            ms=4,
            lw=1,
            capsize=2,
            label=label,
        )
        for point in points:
            if point.bound:
                _arrow_up(ax, point.timestep_fs, point.value_ps, style)
    ax.set(xlabel="time step / fs", ylabel="stability / ps", xscale="log")
    ticks = sorted({point.timestep_fs for _, _, points in series for point in points})
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    top = 1.3 * max((p.value_ps + p.half_width_ps for _, _, points in series for p in points), default=0.0)
    ax.set_ylim(-0.05 * (top or 1.0), top or 1.0)
    add_legend(figure, ax)
    return figure


def _arrow_up(ax: "Axes", x: float, y: float, style: ModelStyle) -> None:
    """A lower bound: the value lies above."""
    ax.annotate(
        "",
        xy=(x, y),
        xycoords="data",
        xytext=(0, 11),
        textcoords="offset points",
        arrowprops={"arrowstyle": "<-", "color": style.light, "lw": 0.9, "shrinkA": 0, "shrinkB": 2},
    )


def plot_head_to_head(panels: Sequence[tuple[str, list[Bar]]], palette: Palette) -> "Figure":
    """Models from the largest force error to the smallest; a panel for each number (paper, Figures 1 and 3).

    Args:
        panels: axis label and bars, the same models in the same order in each.
        palette: of the report.
    """
    figure, axes = new_figure(len(panels), height=0.75 + 0.95 * len(panels), sharex=True)
    for ax, (title, bars) in zip(axes[:, 0], panels, strict=True):
        for i, bar in enumerate(bars):
            style = palette[bar.model]
            if bar.value is None:
                ax.text(i, 0, "not measured", rotation=90, ha="center", va="bottom", fontsize=5.5, color=SOFT)
            else:
                error = bar.half_width or None
                # Of a short run only an outline.
                fill = (
                    {"facecolor": "none", "edgecolor": style.light, "hatch": "////"}
                    if bar.pale
                    else {
                        "facecolor": style.light,
                        "edgecolor": style.light,
                    }
                )
                ax.bar(i, bar.value, 0.66, lw=0.8, yerr=error, capsize=2,
                       error_kw={"lw": 0.8, "ecolor": INK}, **fill)  # fmt: skip
                if bar.bound:
                    _arrow_up(ax, i, bar.value, style)
            if bar.paper is not None:
                ax.plot(i, bar.paper, "D", ms=3.2, mfc=GROUND, mec=INK, mew=0.8)
        ax.set_ylabel(title)
        ax.grid(visible=False, axis="x")
        ax.margins(y=0.18)
        ax.set_ylim(bottom=0)
    bottom = axes[-1, 0]
    names = [bar.label for bar in panels[0][1]]
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(names) > 3 else {}
    bottom.set_xticks(range(len(names)), names, **turned)
    return figure


def plot_scatter(
    title: str,
    bars: Sequence[Bar],
    printed: Sequence[Bar],
    palette: Palette,
    floor: float | None = None,
) -> "Figure":
    """Force MAE against one number of the simulations (paper, Figure 4).

    Args:
        title: of the vertical axis.
        bars: ours, filled.
        printed: the paper's, hollow.
        palette: of the report.
        floor: what our runs would show of a perfect model.
    """
    figure, axes = new_figure(height=2.7)
    ax = axes[0, 0]
    if floor is not None:
        ax.axhline(floor, color=SOFT, lw=0.8, ls=":", zorder=1, label="noise floor")
    sizes = (4.5, 6.5, 8.5)
    ours = {bar.model for bar in bars}
    for bar in printed:
        style = palette[bar.model]
        ax.plot(bar.force_mae, bar.value, style.marker, ms=sizes[bar.size], mfc="none", mec=style.light,
                mew=0.8, alpha=0.9, zorder=2,
                label=None if bar.model in ours else f"{bar.label} (paper)")  # fmt: skip
    for bar in bars:
        style = palette[bar.model]
        ax.errorbar(
            bar.force_mae,
            bar.value,
            bar.half_width or None,
            fmt=style.marker,
            ms=sizes[bar.size],
            color=style.light,
            mec=INK,
            mew=0.6,
            alpha=0.55 if bar.pale else 1.0,
            capsize=2,
            lw=0.8,
            label=bar.label,
            zorder=3,
        )
        if bar.bound and bar.value is not None:
            _arrow_up(ax, bar.force_mae, bar.value, style)
    ax.set(xlabel="force MAE / meV/Å", ylabel=title, xscale="log")
    _plain_log_ticks(ax, [bar.force_mae for bar in (*bars, *printed)])
    top = 1.16 * max(((bar.value or 0.0) + bar.half_width for bar in (*bars, *printed)), default=0.0)
    ax.set_ylim(-0.05 * (top or 1.0), top or 1.0)
    add_legend(figure, ax)
    return figure


def _plain_log_ticks(ax: "Axes", values: Sequence[float], axis: str = "x") -> None:
    """1, 2, 5, 10 ... instead of powers."""
    low, high = min(values) / 1.3, max(values) * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    # As fine as it takes for three of them.
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 5), range(1, 10)):
        ticks = [step * 10.0**n for n in decades for step in steps if low <= step * 10.0**n <= high]
        if len(ticks) >= 3:
            break
    getattr(ax, f"set_{axis}lim")(low, high)
    getattr(ax, f"set_{axis}ticks")(ticks, [_plain(tick) for tick in ticks])
    ax.minorticks_off()


def _plain(tick: float) -> str:
    """A round number, as a power of ten where it is very large."""
    if tick < 1e5:
        return f"{tick:g}"
    power = math.floor(math.log10(tick) + 1e-9)
    factor = round(tick / 10.0**power)
    return ("" if factor == 1 else f"{factor}·") + "10" + str(power).translate(_RAISED)


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def plot_pareto(trades: Sequence[Trade], palette: Palette) -> "Figure":
    """Force MAE against speed, the share of the time until the horizon survived as size; unbeaten runs have a ring.

    Every point links to its run.
    """
    figure, axes = new_figure(height=2.8)
    ax = axes[0, 0]
    for trade, best in zip(trades, unbeaten(trades), strict=True):
        style = palette[trade.model]
        size = 24 + 100 * trade.stable_share
        if best:
            ax.scatter(trade.steps_per_second, trade.force_mae, s=size + 60, fc="none", ec=INK, lw=0.9)
        point = ax.scatter(
            trade.steps_per_second,
            trade.force_mae,
            s=size,
            marker=style.marker,
            c=[style.light],
            edgecolors="none",
        )
        if trade.anchor:
            point.set_urls([f"#{trade.anchor}"])
    ax.set(xlabel="steps per second", ylabel="force MAE / meV/Å", xscale="log", yscale="log")
    _plain_log_ticks(ax, [trade.steps_per_second for trade in trades])
    _plain_log_ticks(ax, [trade.force_mae for trade in trades], "y")
    # Room for words on both sides.
    ax.set_xlim(ax.get_xlim()[0] / 1.4, ax.get_xlim()[1] * 1.8)
    _name_points(figure, ax, [(t.steps_per_second, t.force_mae, t.label) for t in trades])
    return figure


# Where a word may stand beside its point: offset in points, and which part of it is there.
_PLACES = (
    (8, 0, "left", "center"), (-8, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
    (7, 8, "left", "bottom"), (7, -8, "left", "top"), (-7, 8, "right", "bottom"), (-7, -8, "right", "top"),
    (0, 18, "center", "bottom"), (0, -18, "center", "top"),
)  # fmt: skip
_Box = tuple[float, float, float, float]


def _name_points(figure: "Figure", ax: "Axes", points: Sequence[tuple[float, float, str]]) -> None:
    """A word beside each point, where it hides neither another word nor a point."""
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    left, right = (float(ax.transAxes.transform(corner)[0]) for corner in ((0, 0), (1, 0)))
    centres = [ax.transData.transform((x, y)) for x, y, _ in points]
    taken: list[_Box] = [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale) for x, y in centres]
    for centre, (data_x, data_y, word) in zip(centres, points, strict=True):
        boxes = [_word_box(centre, place, word, scale) for place in _PLACES]
        crowding = [_crowding(box, taken, left, right) for box in boxes]
        best = crowding.index(min(crowding))
        dx, dy, ha, va = _PLACES[best]
        taken.append(boxes[best])
        ax.annotate(word, (data_x, data_y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=6.5)


def _word_box(
    centre: NDArray[np.float64], place: tuple[float, float, str, str], word: str, scale: float
) -> _Box:
    dx, dy, ha, va = place
    width, height = 3.7 * scale * len(word), 8 * scale
    x = float(centre[0]) + dx * scale - {"left": 0.0, "right": width, "center": width / 2}[ha]
    y = float(centre[1]) + dy * scale - {"bottom": 0.0, "top": height, "center": height / 2}[va]
    return x, y, x + width, y + height


def _crowding(box: _Box, taken: Sequence[_Box], left: float, right: float) -> float:
    """Area that it shares with what is there, and what of it lies outside."""
    outside = max(left - box[0], 0.0) + max(box[2] - right, 0.0)
    shared = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    return outside * (box[3] - box[1]) + shared


def plot_bond_deviation(metrics: dict[str, Any]) -> "Figure | None":
    """Largest bond deviation against time, a line for each replica, with the criterion."""
    curves = curves_of(metrics, "stability")
    if not curves:
        return None
    threshold = metrics["run"]["threshold_A"]
    rdf = metrics["run"].get("criterion") == "rdf"
    figure, axes = new_figure(height=2.2)
    ax = axes[0, 0]
    _replica_lines(ax, curves, keep="largest", lw=0.7)
    ax.axhline(threshold, color=LIMIT, ls="--", lw=0.9)
    label = f"{'collapsed' if rdf else 'broken'} above {threshold:g} Å"
    ax.text(
        0.01, threshold, label, color=LIMIT, va="bottom", fontsize=6.5, transform=ax.get_yaxis_transform()
    )
    largest = max((y for curve in curves.values() for y in curve["y"] if y is not None), default=0.0)
    ax.set_ylim(0, min(max(1.3 * threshold, 1.1 * largest), MAX_DEVIATION * threshold))
    ax.set_xlim(left=0)
    ax.set(xlabel="time / ps", ylabel="RDF deviation / Å" if rdf else "bond deviation / Å")
    add_legend(figure, ax)
    return figure


def plot_temperature(metrics: dict[str, Any]) -> "Figure | None":
    """Temperature against time: faint as it was logged, bold its mean since the start."""
    curves = curves_of(metrics, "temperature")
    means = {name.removeprefix("mean "): curve for name, curve in curves.items() if name.startswith("mean ")}
    if not means:
        return None
    figure, axes = new_figure(height=2.2)
    ax = axes[0, 0]
    for name in means:
        if name in curves:
            ax.plot(*_thinned(curves[name]), color=SOFT, alpha=0.18, lw=0.4)
    _replica_lines(ax, means, lw=1.3)
    target = metrics["run"].get("temperature_K")
    if target is not None:
        ax.axhline(target, color=INK, ls="--", lw=0.9, label=f"target {target:g} K")
    ax.set(xlabel="time / ps", ylabel="temperature / K")
    ax.set_xlim(left=0)
    add_legend(figure, ax)
    return figure


def plot_drifts(metrics: dict[str, Any]) -> "Figure | None":
    """Total energy per atom against time, a line for each replica."""
    curves = curves_of(metrics, "drift")
    if not curves:
        return None
    figure, axes = new_figure(height=2.2)
    _replica_lines(axes[0, 0], curves)
    axes[0, 0].set(xlabel="time / ps", ylabel="total energy around\nits mean / kJ/mol/atom")
    axes[0, 0].set_xlim(left=0)
    add_legend(figure, axes[0, 0])
    return figure


# Replicas are no models: shades from dark to light that differ in brightness.
_REPLICA_COLOURS = ("#0072b2", "#c97f00", "#009e73", "#b8578f", "#2f94cc", "#d55e00")


def _replica_lines(ax: "Axes", curves: dict[str, Any], *, keep: str = "every", lw: float = 1.0) -> None:
    for i, (name, curve) in enumerate(curves.items()):
        colour = _REPLICA_COLOURS[i % len(_REPLICA_COLOURS)]
        dash = REPLICA_DASHES[i // len(_REPLICA_COLOURS) % len(REPLICA_DASHES)]
        x, y = _thinned(curve, keep)
        ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=colour, ls=dash, lw=lw, label=name)


def plot_collapse(member: dict[str, Any]) -> "Figure | None":
    """Largest force around the first offending step, and the structures around it (paper, Figure 6).

    Args:
        member: a replica of metrics.json.
    """
    collapse = member.get("collapse")
    if not collapse or not collapse["frame_steps"]:
        return None
    structures = collapse.get("structures") or {}
    frames = structures.get("frames") or []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 2.3 + (1.35 if frames else 0)), layout="constrained")
    if frames:
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.2, 1.3])
        upper, lower = parts
        upper.set_facecolor("none")
        lower.set_facecolor("none")
        ax = upper.subplots()
        _draw_structures(np.atleast_1d(lower.subplots(1, len(frames))), structures)
    else:
        ax = figure.subplots()
    fs = 1000.0 * collapse["time_per_step_ps"]
    first = collapse["first_step"]
    for steps, forces, line in (
        (collapse["frame_steps"], collapse["frame_forces_meV_A"], {"marker": "o", "ls": "", "ms": 3.5, "color": SOFT, "label": "frames"}),
        (collapse["steps"], collapse["forces_meV_A"], {"lw": 1.2, "color": INK, "label": "every step"}),
    ):  # fmt: skip
        if steps:
            ax.plot([fs * (step - first) for step in steps], _numbers(forces), **line)
    ax.axvline(0, color=LIMIT, ls="--", lw=0.9, label="first offending step")
    known = dict(zip(collapse["steps"], collapse["forces_meV_A"], strict=True))
    known |= dict(zip(collapse["frame_steps"], collapse["frame_forces_meV_A"], strict=True))
    shown = [frame["step"] for frame in frames if known.get(frame["step"]) is not None]
    if shown:
        ax.plot([fs * (step - first) for step in shown], [known[step] for step in shown], "X", ms=6,
                mfc=LIMIT, mec="none", label="drawn below", zorder=4)  # fmt: skip
    positive = [force for force in known.values() if force is not None and force > 0]
    if positive:
        ax.set_yscale("log")
        _plain_log_ticks(ax, positive, "y")
    if collapse["steps"]:
        # The steps are what there is to see; frames lie further out.
        span = [fs * (step - first) for step in collapse["steps"]]
        wide = 0.35 * (span[-1] - span[0])
        ax.set_xlim(span[0] - wide, span[-1] + wide)
    ax.set(xlabel="time from the first offending step / fs", ylabel="largest force / (meV/Å)")
    (upper if frames else figure).legend(loc="outside upper center", ncols=2, fontsize=6)
    return figure


# Element -> colour and radius drawn; others are grey.
_ATOMS = {1: ("#c9ced6", 0.28), 3: ("#b48ede", 0.45), 6: ("#4a4f57", 0.42), 7: ("#3050c8", 0.42),
          8: ("#d03030", 0.42), 15: ("#e08020", 0.5), 16: ("#c8b020", 0.5), 18: ("#60b0b8", 0.5)}  # fmt: skip


def _draw_structures(axes: NDArray[Any], structures: dict[str, Any]) -> None:
    """Balls and sticks of every frame from one side, the offending pair in red."""
    frames = [np.array(frame["positions_A"]) for frame in structures["frames"]]
    centred = [frame - frame.mean(axis=0) for frame in frames]
    # From where the first frame looks widest.
    _, _, directions = np.linalg.svd(centred[0], full_matrices=False)
    axis = directions if len(directions) == 3 else np.eye(3)
    flat = [frame @ axis.T for frame in centred]
    wide, high = (1.05 * max(np.abs(frame[:, i]).max() for frame in flat) + 0.6 for i in (0, 1))
    pair = structures.get("pair")
    for ax, frame, described in zip(axes, flat, structures["frames"], strict=True):
        for i, j in structures["bonds"]:
            ax.plot(frame[[i, j], 0], frame[[i, j], 1], color=SOFT, lw=1.6, zorder=1)
        if pair:
            ax.plot(frame[pair, 0], frame[pair, 1], color=LIMIT, lw=1.6, ls=(0, (2, 1)), zorder=2)
        order = np.argsort(frame[:, 2])
        for atom in order:
            colour, radius = _ATOMS.get(structures["elements"][atom], ("#8a8f98", 0.45))
            ring = LIMIT if pair and atom in pair else SOFT
            ax.add_patch(_ball(frame[atom, :2], radius, colour, ring))
        ax.set(xlim=(-wide, wide), ylim=(-high, high), aspect="equal")
        ax.set_axis_off()
        ax.set_title(
            f"{described['label'].replace('first offending step', 'first offence')}\nstep {described['step']}",
            fontsize=6,
        )


def _ball(centre: NDArray[np.float64], radius: float, colour: str, ring: str) -> Any:
    from matplotlib.patches import Circle

    wide = 1.1 if ring == LIMIT else 0.4
    return Circle((float(centre[0]), float(centre[1])), radius, fc=colour, ec=ring, lw=wide, zorder=3)
