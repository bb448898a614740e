"""The speed program's figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_mlbench.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]
# Okabe and Ito's palette.
COLOURS = {
    "network": "#000000",
    "torchforce": "#0072B2",
    "pythonforce": "#009E73",
    "ase": "#D55E00",
    "openmm-ml": "#CC79A7",
}
NAMES = {
    "network": "network alone",
    "torchforce": "OpenMM, TorchForce",
    "pythonforce": "OpenMM, PythonForce",
    "ase": "ASE loop",
    "openmm-ml": "OpenMM-ML",
}


def plot_steps(entries: Sequence[Record], axes: "Axes") -> "Axes":
    """Time of a step in every loop, one row per model and system, least process time (GPU: wall time).

    Args:
        entries: of one machine.
        axes: to draw into.
    """
    for variant, colour in COLOURS.items():
        times = []
        for row, entry in enumerate(entries):
            timing = entry["variants"].get(variant)
            if timing is not None:
                clock = "wall_us_min" if entry["platform"] == "CUDA" else "process_us_min"
                times.append((timing[clock] / 1000.0, row))
        if times:
            milliseconds, places = zip(*times, strict=True)
            axes.scatter(milliseconds, places, s=22, color=colour, label=NAMES[variant], alpha=0.85)
    axes.set_yticks(
        range(len(entries)),
        [
            f"{entry['model']}{'' if '/' in entry['model'] else ' (fresh)'}, {entry['system']}"
            for entry in entries
        ],
        fontsize="small",
    )
    axes.set_xscale("log")
    axes.set_xlabel("time of a step / ms")
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.invert_yaxis()
    # Above: at the right end of every row there may be a point.
    axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return axes


def save_plot(entries: Sequence[Record], path: Path) -> None:
    """Write the figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.6 + 0.26 * len(entries)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plot_steps(entries, figure.add_subplot())
    with atomic_path(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=110)
