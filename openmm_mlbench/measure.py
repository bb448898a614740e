"""``openmm-mlbench measure``: numbers from trajectories, whoever made them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmm_mlbench.console import print_table
from openmm_mlbench.errors import MetricError

if TYPE_CHECKING:
    from openmm_mlbench.measuring.measurement import Measured, Source
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
StopOption = Annotated[
    str | None, typer.Option(help="Leave out frames after this time, with its unit; none if not given.")
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        help="Trajectory of the same topology, JSON of an earlier measurement, or name of a data set that ships "
        "a reference, to compare with."
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


def _check_outputs(json: Path | None, plot: Path | None) -> None:
    """Tell before minutes of work what could not be written after them."""
    for path in (json, plot):
        if path is not None and path.is_dir():
            raise MetricError(f"{path}: is a folder; give the name of a file to write")
    if plot is not None and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise MetricError(f"{plot}: cannot draw into a file of this ending; use .png, .pdf or .svg")


def _source(
    topology: Path | None,
    trajectories: list[Path] | None,
    interval: str | None,
    start: str,
    stop: str | None,
) -> "Source":
    from openmm_mlbench.measuring.measurement import Source
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
    source = Source(
        topology=known,
        files=[
            open_trajectory(path, known.atomic_numbers, interval_ps, topology_path=topology)
            for path in trajectories
        ],
        start_ps=parse_time(start, "start"),
        stop_ps=None if stop is None else parse_time(stop, "stop"),
        progress=_Bar(),
    )
    # Nothing moves in one frame, and nothing in it tells an error.
    if max(source.n_frames(file) for file in source.files) < 2:
        raise MetricError(f"{source.files[0].path}: one frame; give a trajectory of at least two")
    return source


def _reference(
    path: Path | None, interval: str | None, source: "Source", observable: str = "", mode: str = "paper"
) -> "Source | Path | None":
    """A JSON file stays a path, a data set's name becomes that of its shipped reference.

    Anything else is a trajectory of the same topology, measured from its start on.
    """
    from openmm_mlbench.measuring.measurement import Source
    from openmm_mlbench.trajectory_stream import open_trajectory

    if path is None:
        return None
    if not path.is_file():
        path = _shipped_reference(path, observable, mode)
    if path.suffix.lower() == ".json":
        return path
    interval_ps = (
        source.files[0].frame_interval_ps if interval is None else parse_time(interval, "reference interval")
    )
    file = open_trajectory(
        path, source.topology.atomic_numbers, interval_ps, topology_path=source.topology.path
    )
    return Source(topology=source.topology, files=[file], start_ps=source.start_ps, progress=source.progress)


def _shipped_reference(name: Path, observable: str, mode: str) -> Path:
    from openmm_mlbench.errors import DataError
    from openmm_mlbench.references import reference_file

    try:
        found = reference_file(str(name), observable, mode)
    except DataError as error:
        raise MetricError(
            f"{name}: neither a file nor a data set; give a reference trajectory, the JSON of a measurement, or a "
            "data set's name"
        ) from error
    if found is None:
        raise MetricError(
            f"data set {name} ships no {observable} reference"
            + ("; give a file" if mode == "paper" else f" of mode {mode}; give a file, or --mode paper")
        )
    return found


def _atoms(topology: "MeasuredTopology", select: str | None) -> Any:
    import numpy as np

    return np.arange(topology.n_atoms) if select is None else topology.select(select)


def _finish(measured: "Measured", json: Path | None, plot: Path | None) -> None:
    from openmm_mlbench.files import write_json

    measurement = measured.measurement
    if json is not None:
        write_json(json, measurement.as_json() | measured.more)
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
    print_table([title, "status", "value", "stderr", "floor", "unit", "note"], rows)


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
        str | None,
        typer.Option(
            help="Radius of the coordination numbers, A; if not given the first minimum of the reference's RDF, without "
            "a reference --r-max."
        ),
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
    _check_outputs(json, plot)
    import numpy as np

    from openmm_mlbench.measuring.rdf import measure_rdf
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
        reference=_reference(reference, reference_interval, source, "rdf", mode),
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
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.distances import measure_distances

    source = _source(topology, trajectory, frame_interval, start, stop)
    measured = measure_distances(
        source,
        _atoms(source.topology, select),
        r_max_A=parse_length(r_max, "r_max"),
        n_bins=bins,
        mode=mode,
        reference=_reference(reference, reference_interval, source, "h_r", mode),
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
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.diffusivity import DiffusivityOptions, measure_diffusivity

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
    measured = measure_diffusivity(
        source, atoms, options, _reference(reference, reference_interval, source, "diffusivity", mode)
    )
    _finish(measured, json, plot)


def _window(text: str) -> tuple[float, float]:
    parts = text.split(":")
    if len(parts) != 2:
        raise MetricError(f"fit {text!r}; wanted two times, like 10ps:50ps")
    first, last = (parse_time(part, "fit") for part in parts)
    if not 0 <= first < last:
        raise MetricError(f"fit {text!r}; wanted the earlier time first, like 10ps:50ps")
    return first, last


@app.command()
def stability(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Watch RDFs of these pairs, O-O,H-H,O-H, in windows; bond lengths if not given."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(help="Largest deviation, A; 0.5 for bonds, 3 for RDFs (1 for LiPS) if not given."),
    ] = None,
    window: Annotated[
        str, typer.Option(help="Length of a window of RDFs, with its unit; there is one from every frame on.")
    ] = "1ps",
    r_max: Annotated[str, typer.Option(help="RDFs: end of the last bin, A.")] = "6",
    bins: Annotated[int, typer.Option(help="RDFs: number of equal bins from 0.")] = 500,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    mode: ModeOption = "paper",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """How long the system stays physical, by its bonds or by RDFs of short windows."""
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.stability import (
        BOND_THRESHOLD_A,
        measure_bond_stability,
        measure_rdf_stability,
    )
    from openmm_mlbench.metrics.rdf_stability import WATER_THRESHOLD

    source = _source(topology, trajectory, frame_interval, start, stop)
    observable = "h_r" if pairs is None else "rdf"
    known = _reference(reference, reference_interval, source, observable, mode)
    limit = None if threshold is None else parse_length(threshold, "threshold")
    if limit is not None and limit <= 0:
        raise MetricError(f"threshold {threshold!r}; wanted a length above zero, like 0.5A")
    if pairs is None:
        measured = measure_bond_stability(
            source, threshold_A=limit or BOND_THRESHOLD_A, reference=known, mode=mode
        )
    else:
        measured = measure_rdf_stability(
            source,
            source.topology.pairs(pairs),
            r_max_A=parse_length(r_max, "r_max"),
            n_bins=bins,
            mode=mode,
            threshold_A=limit or WATER_THRESHOLD,
            window_ps=parse_time(window, "window"),
            reference=known,
        )
    _finish(measured, json, plot)


BondSelectOption = Annotated[
    str | None,
    typer.Option(help="Only bonds between these atoms, mdtraj's language; all of the topology if not given."),
]


@app.command()
def bonds(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    select: BondSelectOption = None,
    r_max: Annotated[str, typer.Option(help="Range of the bins, A.")] = "3",
    bins: Annotated[int, typer.Option(help="Number of equal bins.")] = 300,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Bond lengths by pair of elements: distribution, mean and width, and their distance to a reference."""
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.geometry import measure_bonds

    source = _source(topology, trajectory, frame_interval, start, stop)
    measured = measure_bonds(
        source,
        atoms=None if select is None else source.topology.select(select),
        r_max_A=parse_length(r_max, "r_max"),
        n_bins=bins,
        reference=_reference(reference, reference_interval, source, "bonds", "standard"),
    )
    _finish(measured, json, plot)


@app.command()
def angles(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    select: BondSelectOption = None,
    bins: Annotated[int, typer.Option(help="Number of equal bins from 0 to 180 degrees.")] = 180,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Bond angles by their elements, H-O-H of water for one: distribution, mean and width."""
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.geometry import measure_angles

    source = _source(topology, trajectory, frame_interval, start, stop)
    measured = measure_angles(
        source,
        atoms=None if select is None else source.topology.select(select),
        n_bins=bins,
        reference=_reference(reference, reference_interval, source, "angles", "standard"),
    )
    _finish(measured, json, plot)


@app.command()
def dihedrals(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    dihedral: Annotated[
        list[str] | None,
        typer.Option(
            help="Four 0-based atom indices, with a name if wanted: C-C-O-H=1,0,2,8; again for each. If none is "
            "given, phi and psi where there is one of each, and one about every other bond that turns."
        ),
    ] = None,
    phi: Annotated[
        str | None,
        typer.Option(help="Four 0-based atom indices, 4,6,8,14; with --psi: states of a backbone."),
    ] = None,
    psi: Annotated[str | None, typer.Option(help="Four 0-based atom indices, 6,8,14,16.")] = None,
    basins: Annotated[
        str | None,
        typer.Option(
            help="Basins of each --dihedral in degrees, trans=120:240,gauche=240:120; if not given cis and trans "
            "about a trigonal carbon, else gauche+ 0:120, trans 120:240, gauche- 240:360."
        ),
    ] = None,
    select: BondSelectOption = None,
    bins: Annotated[int, typer.Option(help="Number of equal bins from -180 to 180 degrees.")] = 72,
    start: StartOption = "0ps",
    stop: StopOption = None,
    reference: ReferenceOption = None,
    reference_interval: ReferenceIntervalOption = None,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Dihedral angles: distribution, and the share of time in each basin."""
    _check_outputs(json, plot)
    from openmm_mlbench.measuring import geometry as work

    source = _source(topology, trajectory, frame_interval, start, stop)
    given = [_named_dihedral(text) for text in dihedral or []]
    if phi is not None or psi is not None:
        given += list(zip(("phi", "psi"), _quadruplets(phi, psi), strict=True))
    if basins is not None and not dihedral:
        raise MetricError("--basins are of dihedrals that are given; give one: --dihedral 0,1,2,3")
    if given:
        cuts = None if basins is None else _basins(basins)
        wanted, origin = work.dihedrals_as_given(source, given, cuts), "atoms as given"
    else:
        wanted, origin = work.dihedrals_of(source, None if select is None else source.topology.select(select))
    measured = work.measure_dihedrals(
        source,
        wanted,
        n_bins=bins,
        origin=origin,
        reference=_reference(reference, reference_interval, source, "dihedrals", "standard"),
    )
    _finish(measured, json, plot)


def _named_dihedral(text: str) -> tuple[str, list[int]]:
    name, _, indices = text.rpartition("=")
    return name.strip(), _four_indices(name.strip() or "dihedral", indices)


def _basins(text: str) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        name, _, window = part.partition("=")
        low, _, high = window.partition(":")
        try:
            edges = float(low), float(high)
        except ValueError:
            edges = (-1.0, -1.0)
        if not name.strip() or not all(0 <= edge <= 360 for edge in edges) or edges[0] == edges[1]:
            raise MetricError(
                f"basin {part.strip()!r}; wanted a name and two angles from 0 to 360 degrees, like trans=120:240"
            )
        found[name.strip()] = edges
    return found


@app.command("free-energy")
def free_energy(
    topology: TopologyOption = None,
    trajectory: TrajectoryOption = None,
    frame_interval: IntervalOption = None,
    phi: Annotated[
        str | None, typer.Option(help="Four 0-based atom indices, 4,6,8,14; with --trajectory.")
    ] = None,
    psi: Annotated[str | None, typer.Option(help="Four 0-based atom indices; with --trajectory.")] = None,
    hills: Annotated[
        list[Path] | None, typer.Option(help="HILLS file of PLUMED; again for each further replica.")
    ] = None,
    colvar: Annotated[
        list[Path] | None,
        typer.Option(
            help="COLVAR file with metad.rbias, or with metad.bias and --hills; again for each replica."
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="K; mode mdsim always takes k_B T = 2.49 kJ/mol.")
    ] = 300.0,
    bins: Annotated[int, typer.Option(help="Grid points along each angle.")] = 60,
    start: Annotated[
        str | None,
        typer.Option(
            help="Leave out frames before this time, with its unit; of a COLVAR the first tenth if not given, of other "
            "trajectories nothing."
        ),
    ] = None,
    stop: StopOption = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="JSON of this command, fes.dat, HILLS or COLVAR of PLUMED, an unbiased trajectory, or the name of a "
            "data set that ships a reference."
        ),
    ] = None,
    reference_interval: ReferenceIntervalOption = None,
    fes: Annotated[Path | None, typer.Option(help="Write the surface here as PLUMED's fes.dat.")] = None,
    map_: Annotated[
        Path | None,
        typer.Option("--map", help="Draw the surface of the first replica here, .png, .pdf or .svg."),
    ] = None,
    mode: ModeOption = "paper",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Free energy along two dihedrals, from hills, from a COLVAR by reweighting, or from an unbiased trajectory."""
    from dataclasses import replace

    _check_outputs(json, plot)
    _check_outputs(fes, map_)
    from openmm_mlbench.measuring import free_energy as work
    from openmm_mlbench.measuring.measurement import Source
    from openmm_mlbench.metrics.free_energy import plot_surface, write_fes

    kT = work.kT_of(temperature, mode)
    angles: list[Any] = []
    source = None
    inputs: dict[str, Any] = {}
    if colvar or hills:
        if trajectory:
            raise MetricError("both a trajectory and files of PLUMED were given; give one of them")
        paths = colvar or hills or []
        of_runs: list[Path | None] = [*hills] if colvar and hills else [None] * len(paths)
        if len(of_runs) != len(paths):
            raise MetricError(
                f"{len(of_runs)} HILLS for {len(paths)} COLVAR files; give one for each, in order"
            )
        used = {
            "start_ps": None if start is None else parse_time(start, "start"),
            "stop_ps": None if stop is None else parse_time(stop, "stop"),
        }
        surfaces = [
            work.surface_from_plumed(path, n_bins=bins, kT=kT, hills=of_run, **used)
            for path, of_run in zip(paths, of_runs, strict=True)
        ]
        run = work.run_of(paths[0])
        inputs = {} if run is None else {"run": run}
    else:
        source = _source(topology, trajectory, frame_interval, start or "0ps", stop)
        quads = _quadruplets(phi, psi)
        surfaces, angles = work.surface_from_trajectory(source, quads, n_bins=bins, kT=kT)
        inputs = source.inputs() | {"phi": quads[0], "psi": quads[1]}
    known = None
    if reference is not None and reference.suffix.lower() in {".dcd", ".xtc", ".nc", ".ncdf", ".netcdf"}:
        if source is None:
            source = _source(topology, [reference], reference_interval or frame_interval, "0ps", None)
            of_reference: Source | Path | None = source
        else:
            of_reference = _reference(reference, reference_interval, source)
        assert isinstance(of_reference, Source)
        known = work.surface_from_trajectory(of_reference, _quadruplets(phi, psi), n_bins=bins, kT=kT)[0][0]
    elif reference is not None:
        if not reference.is_file():
            # Surfaces have no mode; what is made of them does.
            reference = _shipped_reference(reference, "free-energy", "paper")
        if reference.suffix.lower() == ".json":
            known = work.surface_from_json(reference, kT)
        else:
            known = work.surface_from_plumed(reference, n_bins=bins, kT=kT)
    if fes is not None:
        if len(surfaces) > 1:
            raise MetricError(f"{len(surfaces)} replicas have a surface each; write --fes of one at a time")
        write_fes(fes, surfaces[0].surface)
    inputs["temperature_K"] = temperature
    measured = work.measure_free_energy(
        surfaces, kT=kT, mode=mode, inputs=inputs, reference=known, angles=angles
    )
    if map_ is not None:
        save_plot(replace(measured, draw=lambda ax: plot_surface(surfaces[0].surface, ax)), map_)
    _finish(measured, json, plot)


def _quadruplets(phi: str | None, psi: str | None) -> list[list[int]]:
    if phi is None or psi is None:
        raise MetricError("no dihedrals; give four 0-based atom indices each: --phi 4,6,8,14 --psi 6,8,14,16")
    return [_four_indices(name, text) for name, text in (("phi", phi), ("psi", psi))]


def _four_indices(name: str, text: str) -> list[int]:
    words = text.split(",")
    if len(words) != 4 or not all(word.strip().isdecimal() for word in words):
        raise MetricError(f"{name} {text!r}; wanted four 0-based atom indices, like 4,6,8,14")
    quad = [int(word) for word in words]
    if len(set(quad)) != 4:
        raise MetricError(f"{name} {text!r}; wanted four different indices")
    return quad


def _read_log(log: Path | None, interval: str | None, start: str, stop: str | None) -> Any:
    from openmm_mlbench.measuring.log import read_any_log

    if log is None:
        raise MetricError("no log; a DCD has no energies: give the simulation's with --log log.csv")
    return read_any_log(
        log,
        frame_interval_ps=None if interval is None else parse_time(interval, "frame interval"),
        start_ps=parse_time(start, "start"),
        stop_ps=None if stop is None else parse_time(stop, "stop"),
    )


LogOption = Annotated[
    Path | None, typer.Option(help="log.csv of a run, or a CSV of OpenMM's StateDataReporter. Required.")
]
RowsOption = Annotated[
    str | None, typer.Option(help="Time between rows with its unit, for a log without a column of times.")
]
UnusedTrajectoryOption = Annotated[
    list[Path] | None, typer.Option(help="Not needed: a trajectory has no energies.")
]


@app.command()
def drift(
    log: LogOption = None,
    topology: Annotated[Path | None, typer.Option(help="Structure, for the number of atoms.")] = None,
    atoms: Annotated[int | None, typer.Option(help="Number of atoms, instead of --topology.")] = None,
    trajectory: UnusedTrajectoryOption = None,  # noqa: ARG001 - the same call may measure every observable
    frame_interval: RowsOption = None,
    start: StartOption = "0ps",
    stop: StopOption = None,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Drift of the total energy of an NVE run, per atom and ps, apart from its oscillation."""
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.log import measure_drift
    from openmm_mlbench.selections import load_topology

    columns = _read_log(log, frame_interval, start, stop)
    if atoms is None:
        if topology is None:
            raise MetricError("no number of atoms; give --topology FILE.pdb or --atoms")
        atoms = load_topology(topology).n_atoms
    if atoms < 1:
        raise MetricError(f"{atoms} atoms; wanted one or more")
    _finish(measure_drift(columns, atoms), json, plot)


@app.command()
def temperature(
    log: LogOption = None,
    topology: Annotated[Path | None, typer.Option(help="Structure, for 3 N - 3 degrees of freedom.")] = None,
    dof: Annotated[
        int | None,
        typer.Option(help="Degrees of freedom; from kinetic energy and temperature in the log if not given."),
    ] = None,
    trajectory: UnusedTrajectoryOption = None,  # noqa: ARG001 - the same call may measure every observable
    frame_interval: RowsOption = None,
    start: StartOption = "0ps",
    stop: StopOption = None,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Mean temperature, and its fluctuation against the canonical one."""
    _check_outputs(json, plot)
    from openmm_mlbench.measuring.log import measure_temperature
    from openmm_mlbench.selections import load_topology

    columns = _read_log(log, frame_interval, start, stop)
    n_atoms = None if topology is None else load_topology(topology).n_atoms
    _finish(measure_temperature(columns, n_atoms, dof), json, plot)
