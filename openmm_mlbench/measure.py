"""``openmm-mlbench measure``: numbers from trajectories, whoever made them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmm_mlbench.errors import MetricError

if TYPE_CHECKING:
    from openmm_mlbench.measurements import Measured, Source
    from openmm_mlbench.selections import MeasuredTopology
    from openmm_mlbench.trajectory import Trajectory

app = typer.Typer(
    help="Observables of trajectories (DCD, XTC, NetCDF) with their errors; no model and no torch needed.",
    no_args_is_help=True,
)

TopologyOption = Annotated[
    Path | None,
    typer.Option(help="Structure of the trajectory: PDB or another topology that mdtraj reads. Required."),
]
TrajectoryOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="DCD, XTC or NetCDF file; again for each further replica of the same system. Required."
    ),
]
IntervalOption = Annotated[
    str | None, typer.Option(help="Time between frames with its unit, fs, ps or ns: 0.1ps. Required.")
]
StartOption = Annotated[str, typer.Option(help="Leave out frames before this time, with its unit.")]
StopOption = Annotated[str | None, typer.Option(help="Leave out frames after this time, with its unit.")]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        help="Trajectory of the same topology, or the JSON of an earlier measurement, to compare with."
    ),
]
ReferenceIntervalOption = Annotated[
    str | None,
    typer.Option(help="Time between frames of a reference trajectory; --frame-interval if not given."),
]
ModeOption = Annotated[
    str, typer.Option(help="paper: the paper's equations; mdsim: what the paper's code does.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write numbers, definition and curves here.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Write a figure here, .png, .pdf or .svg.")]

_PS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3}
_ANGSTROM = {"A": 1.0, "nm": 10.0}


def parse_time(text: str, what: str) -> float:
    """A time in ps from "0.1ps", "50 fs" or "1ns".

    Raises:
        MetricError: no number, or no unit.
    """
    return _parse(text, what, _PS, "0.1ps", None)


def parse_length(text: str, what: str) -> float:
    """A length in A from "6", "6A" or "0.6nm"."""
    return _parse(text, what, _ANGSTROM, "6A", 1.0)


def _parse(text: str, what: str, units: dict[str, float], example: str, default: float | None) -> float:
    stripped = text.strip()
    unit = next((unit for unit in units if stripped.endswith(unit)), None)
    factor = default if unit is None else units[unit]
    try:
        number = float(stripped.removesuffix(unit or "").strip())
    except ValueError:
        number = float("nan")
    if factor is None or not abs(number) < float("inf"):
        raise MetricError(
            f"{what} {text!r}; wanted a number with its unit ({', '.join(units)}), like {example}"
        )
    return number * factor


class _Bar:
    """A progress bar on standard error, where that is a terminal."""

    def __call__(self, chunks: "Iterable[Trajectory]", n_frames: int, what: str) -> "Iterator[Trajectory]":
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(what, total=n_frames)
            for chunk in chunks:
                yield chunk
                progress.advance(task, chunk.n_frames)


def _source(
    topology: Path | None,
    trajectories: list[Path] | None,
    interval: str | None,
    start: str,
    stop: str | None,
) -> "Source":
    from openmm_mlbench.measurements import Source
    from openmm_mlbench.selections import load_topology
    from openmm_mlbench.trajectory_stream import open_trajectory

    if topology is None:
        raise MetricError("no topology; give the structure of the trajectory: --topology FILE.pdb")
    if not trajectories:
        raise MetricError("no trajectory; give a DCD, XTC or NetCDF file: --trajectory FILE.dcd")
    if interval is None:
        raise MetricError(
            "no frame interval; give the time between frames with its unit: --frame-interval 0.1ps"
        )
    interval_ps = parse_time(interval, "frame interval")
    if interval_ps <= 0:
        raise MetricError(f"frame interval {interval!r}; wanted a time above zero, like 0.1ps")
    known = load_topology(topology)
    return Source(
        topology=known,
        files=[
            open_trajectory(path, known.atomic_numbers, interval_ps, topology_path=topology)
            for path in trajectories
        ],
        start_ps=parse_time(start, "start"),
        stop_ps=None if stop is None else parse_time(stop, "stop"),
        progress=_Bar(),
    )


def _reference(path: Path | None, interval: str | None, source: "Source") -> "Source | Path | None":
    """A JSON file stays a path; anything else is a trajectory of the same topology, measured from its start on."""
    from openmm_mlbench.measurements import Source
    from openmm_mlbench.trajectory_stream import open_trajectory

    if path is None:
        return None
    if not path.is_file():
        raise MetricError(f"{path}: no such file; give a reference trajectory or the JSON of a measurement")
    if path.suffix.lower() == ".json":
        return path
    interval_ps = (
        source.files[0].frame_interval_ps if interval is None else parse_time(interval, "reference interval")
    )
    file = open_trajectory(
        path, source.topology.atomic_numbers, interval_ps, topology_path=source.topology.path
    )
    return Source(topology=source.topology, files=[file], start_ps=source.start_ps, progress=source.progress)


def _atoms(topology: "MeasuredTopology", select: str | None) -> Any:
    import numpy as np

    return np.arange(topology.n_atoms) if select is None else topology.select(select)


def _finish(measured: "Measured", json: Path | None, plot: Path | None) -> None:
    from openmm_mlbench.cli import _print_table
    from openmm_mlbench.files import write_json

    measurement = measured.measurement
    if json is not None:
        write_json(json, measurement.as_json())
    if plot is not None:
        save_plot(measured, plot)
    rows = [
        [
            result.name,
            result.status,
            *(
                "-" if number is None else f"{number:.5g}"
                for number in (result.value, result.stderr, result.floor)
            ),
            result.unit,
            result.note,
        ]
        for result in measurement.results
    ]
    title = f"{measurement.observable}, {measurement.mode}"
    _print_table([title, "status", "value", "stderr", "floor", "unit", "note"], rows)


def save_plot(measured: "Measured", path: Path) -> None:
    """Draw a measurement into a file.

    Raises:
        MetricError: the ending names no kind of picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from openmm_mlbench.files import atomic_path

    figure = Figure(figsize=(6, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    if path.suffix.lower().removeprefix(".") not in canvas.get_supported_filetypes():
        raise MetricError(f"{path}: cannot draw into a file of this ending; use .png, .pdf or .svg")
    measured.draw(figure.subplots())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


@app.command()
def rdf(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Pairs of elements or of mdtraj selections: O-O,O-H. All of one element if not given."
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Instead of --pairs: atoms in the middle, 'element O'.")
    ] = None,
    select2: Annotated[
        str | None, typer.Option(help="With --select: the atoms around; the same if not given.")
    ] = None,
    r_max: Annotated[str, typer.Option(help="End of the last bin, A; may exceed half the cell.")] = "6",
    bins: Annotated[int, typer.Option(help="Number of equal bins from 0.")] = 500,
    cutoff: Annotated[
        str | None, typer.Option(help="Radius of the coordination numbers, A; --r-max if not given.")
    ] = None,
    intramolecular: Annotated[
        bool, typer.Option("--intramolecular/--no-intramolecular", help="Count pairs within one molecule.")
    ] = True,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    mode: ModeOption = "paper",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Radial distribution functions, coordination numbers, and the MAE against a reference."""
    import numpy as np

    from openmm_mlbench.measurements import measure_rdf
    from openmm_mlbench.metrics.rdf import AtomPairs

    source = _source(topology, trajectory, frame_interval, start, stop)
    known = source.topology
    if pairs is not None and select is not None:
        raise MetricError("both --pairs and --select were given; give one of them")
    if pairs is not None:
        groups = known.pairs(pairs)
    elif select is None and select2 is None and len(np.unique(known.atomic_numbers)) > 1:
        raise MetricError(
            f"no pairs; {topology} has several elements: give --pairs O-O, or --select and --select2"
        )
    else:
        a = _atoms(known, select)
        b = a if select2 is None else known.select(select2)
        groups = [AtomPairs(label=f"{select or 'all'}-{select2 or select or 'all'}", a=a, b=b)]
    measured = measure_rdf(
        source,
        groups,
        r_max_A=parse_length(r_max, "r_max"),
        n_bins=bins,
        mode=mode,
        intramolecular=intramolecular,
        reference=_reference(reference, reference_interval, source),
        cutoff_A=None if cutoff is None else parse_length(cutoff, "cutoff"),
    )
    _finish(measured, json, plot)


@app.command()
def distances(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    select: Annotated[
        str | None, typer.Option(help="Atoms whose distances count, mdtraj's language; all if not given.")
    ] = None,
    r_max: Annotated[str, typer.Option(help="End of the last bin, A.")] = "10",
    bins: Annotated[int, typer.Option(help="Number of equal bins.")] = 500,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    mode: ModeOption = "paper",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Distribution of interatomic distances h(r) of a whole molecule, and its MAE against a reference."""
    from openmm_mlbench.measurements import measure_distances

    source = _source(topology, trajectory, frame_interval, start, stop)
    measured = measure_distances(
        source,
        _atoms(source.topology, select),
        r_max_A=parse_length(r_max, "r_max"),
        n_bins=bins,
        mode=mode,
        reference=_reference(reference, reference_interval, source),
    )
    _finish(measured, json, plot)


@app.command()
def diffusivity(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    select: Annotated[
        str | None, typer.Option(help="The tracked atoms, mdtraj's language: 'element O'; all if not given.")
    ] = None,
    lag: Annotated[
        str | None,
        typer.Option(help="Fixed lag with its unit: D = MSD / (6 t). In mode mdsim 100ps if not given."),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            help="Window of the slope, 10ps:50ps; with neither, 5 to 20 % of the length in mode paper."
        ),
    ] = None,
    remove_drift: Annotated[
        bool,
        typer.Option(
            "--remove-drift/--keep-drift", help="Subtract the mean displacement of the tracked atoms."
        ),
    ] = True,
    unwrap: Annotated[
        bool, typer.Option("--unwrap/--no-unwrap", help="Follow atoms through the faces of the cell.")
    ] = True,
    stride: Annotated[str, typer.Option(help="Between time origins in mode mdsim, with its unit.")] = "1ps",
    viscosity: Annotated[
        float | None,
        typer.Option(
            help="Of the model liquid, mPa s: adds the finite-size correction of Yeh and Hummer; none if not given."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="For the correction, K.")] = 300.0,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    mode: ModeOption = "paper",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Diffusivity from the mean squared displacement, in 1e-9 m2/s."""
    from openmm_mlbench.measurements import DiffusivityOptions, measure_diffusivity

    source = _source(topology, trajectory, frame_interval, start, stop)
    options = DiffusivityOptions(
        mode=mode,
        lag_ps=None if lag is None else parse_time(lag, "lag"),
        fit_ps=None if fit is None else _window(fit),
        remove_drift=remove_drift,
        unwrap=unwrap,
        stride_ps=parse_time(stride, "stride"),
        viscosity_mPa_s=viscosity,
        temperature_K=temperature,
    )
    atoms = _atoms(source.topology, select)
    measured = measure_diffusivity(source, atoms, options, _reference(reference, reference_interval, source))
    _finish(measured, json, plot)


def _window(text: str) -> tuple[float, float]:
    parts = text.split(":")
    if len(parts) != 2:
        raise MetricError(f"fit {text!r}; wanted two times, like 10ps:50ps")
    first, last = (parse_time(part, "fit") for part in parts)
    if not 0 <= first < last:
        raise MetricError(f"fit {text!r}; wanted the earlier time first, like 10ps:50ps")
    return first, last
