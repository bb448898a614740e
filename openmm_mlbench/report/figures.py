"""Figures of a report; they draw curves that were measured and compute nothing."""

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Okabe and Ito's palette, told apart with every kind of colour vision; black is the reference's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
REFERENCE_COLOUR = "#000000"
LIMIT_COLOUR = "#B00020"
LABEL_GROUND = "rgba(255, 255, 255, 0.85)"
# A bond that flew apart would flatten everything else; the picture ends here.
MAX_DEVIATION_A = 1.5
# Of one distribution among several, where the next begins at 1.
_ROW_HEIGHT = 0.92


def curves_of(metrics: dict[str, Any], observable: str, mode: str | None = None) -> dict[str, Any]:
    """Curves of one observable, in one mode or in the first that has it; empty where it was not measured."""
    for measurement in metrics["measurements"]:
        if measurement["observable"] == observable and mode in (None, measurement["mode"]):
            return dict(measurement["curves"])
    return {}


def plot_h_r(runs: list[dict[str, Any]]) -> "Figure | None":
    """h(r) of every model trained on one data set over the reference; below, the difference."""
    from plotly.subplots import make_subplots

    drawn = [(metrics["run"]["model"], curves_of(metrics, "h_r_mae")) for metrics in runs]
    drawn = [(model, curves) for model, curves in drawn if "mean" in curves]
    if not drawn:
        return None
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06)
    reference = drawn[0][1].get("reference")
    if reference:
        line = {"color": REFERENCE_COLOUR, "width": 2.5}
        figure.add_scatter(x=reference["x"], y=reference["y"], name="reference", line=line, row=1, col=1)
    canonical = drawn[0][1].get("canonical reference")
    if canonical:
        line = {"color": REFERENCE_COLOUR, "width": 1.2, "dash": "dot"}
        figure.add_scatter(
            x=canonical["x"], y=canonical["y"], name="canonical reference", line=line, row=1, col=1
        )
    for i, (model, curves) in enumerate(drawn):
        line = {"color": COLOURS[i % len(COLOURS)], "width": 1.8, "dash": DASHES[i % len(DASHES)]}
        common = {"name": html.escape(model, quote=False), "legendgroup": str(i), "line": line}
        figure.add_scatter(x=curves["mean"]["x"], y=curves["mean"]["y"], row=1, col=1, **common)
        if "difference" in curves:
            difference = curves["difference"]
            figure.add_scatter(x=difference["x"], y=difference["y"], showlegend=False, row=2, col=1, **common)
    figure.update_xaxes(range=_occupied([curves["mean"] for _, curves in drawn]))
    figure.update_xaxes(title="distance r / Å", row=2, col=1)
    figure.update_yaxes(title="h(r) / Å⁻¹", row=1, col=1)
    figure.update_yaxes(title="Δh / Å⁻¹", row=2, col=1)
    return _styled(figure, height=560)


def plot_distributions(runs: list[dict[str, Any]], observable: str) -> "Figure | None":
    """Distributions of bonds, angles or dihedrals, one above the other, of every model over the reference.

    Each kind has a base line of its own and is scaled to the highest of its curves.
    """
    from plotly.graph_objects import Figure

    drawn = [(metrics["run"]["model"], curves_of(metrics, observable)) for metrics in runs]
    drawn = [(model, curves) for model, curves in drawn if curves]
    if not drawn:
        return None
    labels = list(
        dict.fromkeys(name for _, curves in drawn for name in curves if not name.startswith("reference "))
    )
    figure = Figure()
    for row, label in enumerate(reversed(labels)):
        known = next(
            (curves[f"reference {label}"] for _, curves in drawn if f"reference {label}" in curves), None
        )
        lines = [("reference", "reference", known, {"color": REFERENCE_COLOUR, "width": 2.5})]
        for i, (model, curves) in enumerate(drawn):
            line = {"color": COLOURS[i % len(COLOURS)], "width": 1.8, "dash": DASHES[i % len(DASHES)]}
            lines.append((html.escape(model, quote=False), str(i), curves.get(label), line))
        highest = max((max(curve["y"]) for _, _, curve, _ in lines if curve), default=0.0) or 1.0
        for name, group, curve, line in lines:
            if curve is None:
                continue
            seen = _seen(curve)
            figure.add_scatter(
                x=seen["x"],
                y=[row + _ROW_HEIGHT * y / highest for y in seen["y"]],
                name=name,
                legendgroup=group,
                showlegend=row == len(labels) - 1,
                line=line,
                hoverinfo="x+name",
            )
    what = {
        "bonds": "bond length / Å",
        "angles": "angle / degrees",
        "dihedrals": "dihedral / degrees",
    }[observable]
    figure.update_xaxes(title=what)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[html.escape(label, quote=False) for label in reversed(labels)],
        range=[-0.1, len(labels)],
    )
    return _styled(figure, height=180 + 56 * max(len(labels), 3))


def _seen(curve: dict[str, Any]) -> dict[str, Any]:
    """The part of a curve where anything is, with a zero on either side."""
    inside = [i for i, y in enumerate(curve["y"]) if y]
    low, high = (max(inside[0] - 1, 0), inside[-1] + 2) if inside else (0, 0)
    return {"x": curve["x"][low:high], "y": curve["y"][low:high]}


def plot_parity(runs: list[dict[str, Any]], name: str) -> "Figure | None":
    """Predicted against true values on test frames: ``force parity``, eV/A, or ``energy parity``, eV."""
    from plotly.graph_objects import Figure

    found = [(metrics["run"]["model"], curves_of(metrics, "force_mae").get(name)) for metrics in runs]
    what, unit = ("force", "eV/Å") if name == "force parity" else ("energy", "eV")
    drawn = [(model, curve) for model, curve in found if curve]
    if not drawn:
        return None
    figure = Figure()
    ends = [edge(curve["x"]) for edge in (min, max) for _, curve in drawn]
    line = {"color": REFERENCE_COLOUR, "dash": "dash", "width": 1.5}
    figure.add_scatter(x=[min(ends), max(ends)], y=[min(ends), max(ends)], name="equal", line=line)
    for i, (model, curve) in enumerate(drawn):
        marker = {"color": COLOURS[i % len(COLOURS)], "size": 4, "opacity": 0.5}
        figure.add_scatter(x=curve["x"], y=curve["y"], name=html.escape(model, quote=False), marker=marker)
    figure.update_xaxes(title=f"true {what} / {unit}")
    figure.update_yaxes(title=f"predicted {what} / {unit}")
    styled = _styled(figure, height=420)
    for trace in styled.data[1:]:
        trace.mode = "markers"
    return styled


def plot_rdfs(runs: list[dict[str, Any]], mode: str) -> "dict[str, Figure]":
    """For each pair g(r) of every model over the reference of the same mode; below, the difference."""
    drawn = [(metrics["run"]["model"], curves_of(metrics, "rdf", mode)) for metrics in runs]
    labels = dict.fromkeys(
        name for _, curves in drawn for name in curves if " " not in name and f"coordination {name}" in curves
    )
    return {label: _plot_rdf(label, drawn) for label in labels}


def _plot_rdf(label: str, drawn: list[tuple[str, dict[str, Any]]]) -> "Figure":
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06)
    reference = next(
        (curves[f"reference {label}"] for _, curves in drawn if f"reference {label}" in curves), None
    )
    if reference:
        line = {"color": REFERENCE_COLOUR, "width": 2.5}
        figure.add_scatter(x=reference["x"], y=reference["y"], name="reference", line=line, row=1, col=1)
    for i, (model, curves) in enumerate(drawn):
        if label not in curves:
            continue
        line = {"color": COLOURS[i % len(COLOURS)], "width": 1.8, "dash": DASHES[i % len(DASHES)]}
        common = {"name": html.escape(model, quote=False), "legendgroup": str(i), "line": line}
        own = curves[label]
        figure.add_scatter(x=own["x"], y=own["y"], row=1, col=1, **common)
        if reference and reference["x"] == own["x"]:
            difference = [a - b for a, b in zip(own["y"], reference["y"], strict=True)]
            figure.add_scatter(x=own["x"], y=difference, showlegend=False, row=2, col=1, **common)
    figure.update_xaxes(title="distance r / Å", row=2, col=1)
    figure.update_yaxes(title="g(r)", row=1, col=1)
    figure.update_yaxes(title="Δg", row=2, col=1)
    return _styled(figure, height=480)


def plot_free_energy(runs: list[dict[str, Any]]) -> "dict[str, Figure]":
    """F along each biased angle: a line for each replica of each model, over the reference."""
    found = [(metrics["run"]["model"], curves_of(metrics, "free_energy")) for metrics in runs]
    figures = {}
    for name, letter in (("phi", "φ"), ("psi", "ψ")):
        lines = {
            f"{model}{label.removeprefix(f'F_{name}')}": curve
            for model, curves in found
            for label, curve in curves.items()
            if label.startswith(f"F_{name}")
        }
        if not lines:
            continue
        figure = _replica_lines(lines)
        reference = next(
            (curves[f"reference F_{name}"] for _, curves in found if f"reference F_{name}" in curves), None
        )
        if reference:
            line = {"color": REFERENCE_COLOUR, "width": 2.5}
            figure.add_scatter(x=reference["x"], y=reference["y"], name="reference", line=line)
        figure.update_xaxes(title=f"{letter} / rad")
        figure.update_yaxes(title=f"F({letter}) / kJ/mol", rangemode="tozero")
        figures[letter] = _styled(figure, height=420)
    return figures


def plot_diffusion(runs: list[dict[str, Any]]) -> "Figure | None":
    """Mean squared displacement against the lag, a line for each replica of each model."""
    curves = {
        f"{metrics['run']['model']}{name.removeprefix('MSD')}": curve
        for metrics in runs
        for name, curve in curves_of(metrics, "diffusivity").items()
        if name.startswith("MSD")
    }
    if not curves:
        return None
    figure = _replica_lines(curves)
    figure.update_xaxes(title="lag / ps", rangemode="tozero")
    figure.update_yaxes(title="MSD / Å²", rangemode="tozero")
    return _styled(figure, height=360)


def plot_drifts(metrics: dict[str, Any]) -> "Figure | None":
    """Total energy per atom against time, a line for each replica."""
    curves = curves_of(metrics, "drift")
    if not curves:
        return None
    figure = _replica_lines(curves)
    figure.update_xaxes(title="time / ps", rangemode="tozero")
    figure.update_yaxes(title="energy around its mean / kJ/mol/atom")
    return _styled(figure, height=360)


def _occupied(curves: list[dict[str, Any]]) -> list[float]:
    """The distances where there is anything to see."""
    occupied = [x for curve in curves for x, y in zip(curve["x"], curve["y"], strict=True) if y]
    return [max(min(occupied) - 0.2, 0.0), max(occupied) + 0.2] if occupied else [0.0, 10.0]


def plot_bond_deviation(metrics: dict[str, Any]) -> "Figure | None":
    """Largest bond deviation against time, a line for each replica, with the criterion."""
    curves = curves_of(metrics, "stability")
    if not curves:
        return None
    threshold = metrics["run"]["threshold_A"]
    rdf = metrics["run"].get("criterion") == "rdf"
    largest = max((y for curve in curves.values() for y in curve["y"] if y is not None), default=0.0)
    figure = _replica_lines(curves, opacity=0.8, width=1.2)
    label = f"{'collapsed' if rdf else 'broken'} above {threshold:g} Å"
    figure.add_hline(
        y=threshold,
        line={"color": LIMIT_COLOUR, "dash": "dash", "width": 1.5},
        annotation={"text": label, "font": {"color": LIMIT_COLOUR}, "bgcolor": LABEL_GROUND},
        annotation_position="top left",
    )
    figure.update_xaxes(title="time / ps", rangemode="tozero")
    figure.update_yaxes(
        title="RDF deviation / Å" if rdf else "bond deviation / Å",
        range=[0, min(max(1.3 * threshold, 1.1 * largest), MAX_DEVIATION_A * threshold / 0.5)],
    )
    return _styled(figure, height=360)


def plot_collapse(metrics: dict[str, Any]) -> "Figure | None":
    """Largest force against time from the first offending step, for the replicas that collapsed."""
    from plotly.graph_objects import Figure

    found = {
        f"replica {member['index']}: {member['collapse']['reason']}": member["collapse"]
        for member in metrics["run"]["replicas"]
        if member.get("collapse")
    }
    if not found:
        return None
    figure = Figure()
    for i, (name, collapse) in enumerate(found.items()):
        colour, fs = COLOURS[i % len(COLOURS)], 1000.0 * collapse["time_per_step_ps"]
        for steps, forces, mode in (
            (collapse["frame_steps"], collapse["frame_forces_meV_A"], "markers"),
            (collapse["steps"], collapse["forces_meV_A"], "lines"),
        ):
            figure.add_scatter(
                x=[fs * (step - collapse["first_step"]) for step in steps],
                y=forces,
                mode=mode,
                name=html.escape(name, quote=False),
                legendgroup=name,
                showlegend=mode == "markers",
                line={"color": colour, "width": 1.8},
                marker={"color": colour, "size": 6},
            )
    figure.add_vline(x=0, line={"color": LIMIT_COLOUR, "dash": "dash", "width": 1.5})
    figure.update_xaxes(title="time from the first offending step / fs")
    figure.update_yaxes(title="largest force / (meV/Å)", type="log")
    modes = [trace.mode for trace in figure.data]
    styled = _styled(figure, height=360)
    for trace, mode in zip(styled.data, modes, strict=True):
        trace.mode = mode
    return styled


def plot_temperature(metrics: dict[str, Any]) -> "Figure | None":
    """Temperature against time: faint as it was logged, bold its mean since the start."""
    curves = curves_of(metrics, "temperature")
    means = {name.removeprefix("mean "): curve for name, curve in curves.items() if name.startswith("mean ")}
    if not means:
        return None
    logged = {name: curves[name] for name in means if name in curves}
    figure = _replica_lines(logged, opacity=0.2, width=1.0)
    figure.update_traces(showlegend=False, hoverinfo="skip")
    for trace in _replica_lines(means, width=2.5).data:
        figure.add_trace(trace)
    target = metrics["run"].get("temperature_K")
    if target is not None:
        figure.add_hline(
            y=target,
            line={"color": REFERENCE_COLOUR, "dash": "dash", "width": 1.5},
            annotation={
                "text": f"target {target:g} K",
                "font": {"color": REFERENCE_COLOUR},
                "bgcolor": LABEL_GROUND,
            },
            annotation_position="top left",
        )
    figure.update_xaxes(title="time / ps", rangemode="tozero")
    figure.update_yaxes(title="temperature / K")
    return _styled(figure, height=360)


def _replica_lines(curves: dict[str, Any], opacity: float = 1.0, width: float = 1.8) -> "Figure":
    from plotly.graph_objects import Figure

    figure = Figure()
    for i, (name, curve) in enumerate(curves.items()):
        line = {
            "color": COLOURS[i % len(COLOURS)],
            "width": width,
            "dash": DASHES[i // len(COLOURS) % len(DASHES)],
        }
        figure.add_scatter(
            x=curve["x"],
            y=curve["y"],
            name=html.escape(name, quote=False),
            line=line,
            opacity=opacity,
            legendgroup=name,
        )
    return figure


def _styled(figure: "Figure", height: int) -> "Figure":
    figure.update_layout(
        template="plotly_white",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1b1f24"},
        margin={"l": 64, "r": 16, "t": 32, "b": 56},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        autosize=True,
    )
    figure.update_traces(mode="lines")
    axes = {
        "showline": True,
        "linecolor": "#57606a",
        "ticks": "outside",
        "gridcolor": "#e4e7eb",
        "zeroline": False,
    }
    figure.update_xaxes(**axes)
    figure.update_yaxes(automargin=True, **axes)
    return figure
