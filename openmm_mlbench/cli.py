"""The command line: ``openmm-mlbench``.

Every command imports what it needs when it runs, so that ``--help`` is quick
and ``train`` works where OpenMM is not installed.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from rich.console import Console

from openmm_mlbench import __version__
from openmm_mlbench.console import four_digits, print_columns, print_table, say
from openmm_mlbench.errors import MLBenchError
from openmm_mlbench.measure import app as measure_app
from openmm_mlbench.training.options import HELP as TRAIN_HELP

app = typer.Typer(
    help="Learned force fields, driven by OpenMM, judged by the simulations they produce.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Get, make and look at data.", no_args_is_help=True)
protocols_app = typer.Typer(invoke_without_command=True)
app.add_typer(data_app, name="data")
app.add_typer(protocols_app, name="protocols")
app.add_typer(measure_app, name="measure")

DataOption = Annotated[
    Path | None, typer.Option("--data", help="File of the data set, instead of where it is looked for.")
]
VariantOption = Annotated[
    str | None,
    typer.Option(help="Variant of the protocol, as in ethanol --variant gentle or ethanol-gentle."),
]
PlatformOption = Annotated[str, typer.Option(help="OpenMM platform, or auto.")]
PrecisionOption = Annotated[
    str, typer.Option(help="Of the platform: single, mixed, double, or auto: mixed on GPUs.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(help="Of each run, and the most that auto may choose; one below 100 atoms, else the cores."),
]
DriverOption = Annotated[
    str, typer.Option(help="Of the learned force: torchforce, pythonforce (compiled), or auto.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")]


def _refuse_to_replace(out: Path, overwrite: bool) -> None:
    """Before anything is computed: a file that is there stays, unless the user says otherwise."""
    from openmm_mlbench.errors import MLBenchError

    if out.exists() and not overwrite:
        raise MLBenchError(f"{out} exists; give another name, or --overwrite to replace it")


def _show_version(value: bool) -> None:
    if value:
        print(f"openmm-mlbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def systems() -> None:
    """List the systems: data sets with their frames, whether they are at hand, references, origin."""
    from openmm_mlbench.listings import SYSTEM_COLUMNS, system_rows

    rows = system_rows()
    # Both fit a terminal.
    print_columns(SYSTEM_COLUMNS, rows, SYSTEM_COLUMNS[:6])
    print()
    print_columns(SYSTEM_COLUMNS, rows, ["data set", "what", "origin"])


@app.command()
def models() -> None:
    """List architectures, shipped models, and the potentials behind data sets, which run in their place."""
    from openmm_mlbench.listings import ARCHITECTURE_COLUMNS, MODEL_COLUMNS, architecture_rows, model_rows
    from openmm_mlbench.reference_potentials import REFERENCE_POTENTIALS, find_reference_potential

    print_table(ARCHITECTURE_COLUMNS, architecture_rows())
    print()
    print_table(MODEL_COLUMNS, model_rows())
    print()
    potentials = []
    for name in REFERENCE_POTENTIALS:
        try:
            p = find_reference_potential(name)
            potentials.append([p.id, p.system, p.dataset or "-", p.summary])
        except MLBenchError as error:  # one that is broken does not hide the others
            potentials.append([name, "-", "-", str(error)])
    print_table(["reference potential", "system", "data set", "what"], potentials)


@protocols_app.callback()
def protocols(context: typer.Context) -> None:
    """List the protocols; show one of them; write one for a structure of your own."""
    if context.invoked_subcommand is None:
        from openmm_mlbench.listings import PROTOCOL_COLUMNS, protocol_rows

        rows, later = protocol_rows(), ("system", "steps", "frames / ps", "variants")
        print_columns(PROTOCOL_COLUMNS, rows, [column for column in PROTOCOL_COLUMNS if column not in later])
        print()
        print_columns(PROTOCOL_COLUMNS, rows, ["protocol", *later])


@protocols_app.command("show")
def protocols_show(
    protocol: Annotated[str, typer.Argument(help="Name of a protocol, or an XML file.")],
    variant: VariantOption = None,
    xml: Annotated[
        bool, typer.Option("--xml", help="The protocol as a file of its own, to change and keep.")
    ] = False,
) -> None:
    """List the variants of a protocol, or print it as XML."""
    if xml:
        from openmm_mlbench.protocol import load_protocol

        print(load_protocol(protocol, variant).to_xml(), end="")
        return
    from openmm_mlbench.listings import VARIANT_COLUMNS, variant_rows

    print_table(VARIANT_COLUMNS, variant_rows(protocol, variant))


@protocols_app.command("new")
def protocols_new(
    structure: Annotated[Path, typer.Option(help="PDB file; CRYST1 makes it periodic.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="XML file to write.")],
    like: Annotated[
        str, typer.Option(help="Protocol to follow in all that is not given: name, or an XML file.")
    ] = "ethanol",
    variant: VariantOption = None,
    name: Annotated[
        str | None, typer.Option(help="Of protocol and system; that of the file if not given.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="K.")] = None,
    timestep: Annotated[float | None, typer.Option(help="fs.")] = None,
    length: Annotated[float | None, typer.Option(help="Of each run, ps.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Runs.")] = None,
) -> None:
    """Write a protocol for a molecule or cell of your own: `simulate FILE.xml --model MODEL` runs it."""
    from openmm_mlbench.protocol_template import new_protocol

    written = new_protocol(
        structure,
        out,
        like=like,
        variant=variant,
        name=name,
        temperature_K=temperature,
        timestep_fs=timestep,
        length_ps=length,
        replicas=replicas,
    )
    for note in written.notes:
        say(note)
    print(out)


@data_app.command("generate")
def data_generate(
    system: Annotated[str, typer.Argument(help="Name of a system, for example ethanol.")],
    out: OutOption = Path("generated"),
    variant: Annotated[
        str | None, typer.Option(help="How it is made, for example spcfw; the system's first if not given.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Labelled frames; as shipped if not given.")] = None,
    length: Annotated[
        float | None, typer.Option(help="Length of the dynamics, ps; as shipped if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of velocities and noise.")] = 0,
    timestep: Annotated[float | None, typer.Option(help="Time step, fs; the variant's if not given.")] = None,
    platform: Annotated[str | None, typer.Option(help="OpenMM platform; the variant's if not given.")] = None,
    full_scale: Annotated[
        bool, typer.Option("--full-scale", help="As many frames and as long as the paper's data.")
    ] = False,
) -> None:
    """Make a data set by dynamics with a cheap potential; a run that was cut off goes on by itself."""
    from openmm_mlbench.generation import generate

    def progress(done: float, total: float) -> None:
        say(f"{done:.1f} of {total:g} ps")

    written = generate(
        system,
        out,
        variant=variant,
        full_scale=full_scale,
        n_frames=frames,
        length_ps=length,
        seed=seed,
        timestep_fs=timestep,
        platform=platform,
        progress=progress,
    )
    for path in written:
        print(path)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        str | None, typer.Argument(help="Official file, or a data set made of one; lists them if not given.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder instead of the cache ($MLBENCH_CACHE).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Download again what is there.")] = False,
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder with <name>/<file> instead of the official ones.")
    ] = None,
) -> None:
    """Download official data, resuming where it stopped; without a name, list what there is."""
    from openmm_mlbench.data import fetch

    if name is None:
        print_table(
            ["name", "size / MB", "here", "data sets", "licence", "origin"],
            [
                [
                    file.name,
                    "-" if file.size is None else f"{file.size / 1e6:,.0f}",
                    fetch.state_in_cache(file, to),
                    " ".join(fetch.fed_datasets(file)),
                    file.licence,
                    file.origin,
                ]
                for file in fetch.OFFICIAL
            ],
        )
        return
    official = fetch.find_official(name)
    with _DownloadDisplay(official.filename) as display:
        fetched = fetch.fetch(official, to, force=force, mirror=mirror, note=say, progress=display)
    for line in (*fetched.notes, *fetch.how_to_read(official, fetched, to)):
        say(line)
    for path in fetched.files:
        print(path)


class _DownloadDisplay:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, filename: str) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(filename, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total)


@data_app.command("inspect")
def data_inspect(
    source: Annotated[str, typer.Argument(help="Name of a data set, or a file.")],
    labels: Annotated[str | None, typer.Option(help="Label set of an MD17 file: md17 or rmd17.")] = None,
    data: DataOption = None,
) -> None:
    """Show what a data set holds."""
    import numpy as np

    from openmm_mlbench.data.datasets import load_dataset

    frames = load_dataset(source, labels, path=data)
    rows = [
        ["name", frames.name],
        ["frames", str(frames.n_frames)],
        ["atoms", f"{frames.n_atoms}: {_formula(frames.atomic_numbers)}"],
        ["cell", "none" if frames.cells is None else "periodic"],
        ["interval", "unknown" if frames.interval_fs is None else f"{frames.interval_fs:g} fs"],
        ["constraints", frames.constraints],
        ["level of theory", frames.level_of_theory],
        ["source", frames.source],
        ["hash", frames.content_hash()],
    ]
    if frames.energies is not None:
        rows.append(["energy", f"{frames.energies.mean():.3f} +- {frames.energies.std():.3f} eV"])
    if frames.forces is not None:
        rows.append(["force RMS", f"{1000 * np.sqrt(np.mean(frames.forces**2)):.1f} meV/A"])
    print_table(["", source], rows)


@data_app.command("reference")
def data_reference(
    run: Annotated[
        Path, typer.Argument(help="Run folder of one molecule with the potential that is the truth.")
    ],
    name: Annotated[str, typer.Option(help="Of the data set that it is the reference of.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    skip: Annotated[float, typer.Option(help="Left out at the start of each replica, ps.")] = 5.0,
) -> None:
    """Make a finished run the reference of others: bonds, their lengths and h(r)."""
    from openmm_mlbench.measuring.run_reference import reference_from_run

    reference = reference_from_run(run, dataset=name, skip_ps=skip)
    reference.save(out)
    print(f"{out}: {reference.n_frames} frames, {len(reference.bonds)} bonds, {reference.length_ps:g} ps")


def _formula(atomic_numbers: Any) -> str:
    from ase.formula import Formula
    from ase.symbols import Symbols

    return str(Formula(str(Symbols(atomic_numbers))).format("hill"))


@data_app.command("convert")
def data_convert(
    source: Annotated[str, typer.Argument(help="Name of a data set, or a file.")],
    out: Annotated[Path, typer.Argument(help="File to write: .npz or .h5.")],
    labels: Annotated[str | None, typer.Option(help="Label set of an MD17 file: md17 or rmd17.")] = None,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a data set in this package's npz or HDF5 form."""
    from openmm_mlbench.data.datasets import load_dataset
    from openmm_mlbench.data.readers import write_hdf5, write_npz
    from openmm_mlbench.errors import DataError

    writers = {".npz": write_npz, ".h5": write_hdf5, ".hdf5": write_hdf5}
    if out.suffix.lower() not in writers:
        raise DataError(f"{out}: ending {out.suffix!r} cannot be written; use one of {', '.join(writers)}")
    _refuse_to_replace(out, overwrite)
    frames = load_dataset(source, labels, path=data)
    writers[out.suffix.lower()](frames, out)
    print(out)


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=TRAIN_HELP["model"])],
    system: Annotated[str, typer.Argument(help=TRAIN_HELP["system"])],
    out: OutOption,
    data: DataOption = None,
    size: Annotated[str | None, typer.Option(help=TRAIN_HELP["size"])] = None,
    labels: Annotated[str | None, typer.Option(help=TRAIN_HELP["labels"])] = None,
    recipe: Annotated[str | None, typer.Option(help=TRAIN_HELP["recipe"], show_default="fast")] = None,
    train_frames: Annotated[int | None, typer.Option(help=TRAIN_HELP["train_frames"])] = None,
    validation_frames: Annotated[int, typer.Option(help=TRAIN_HELP["validation_frames"])] = 50,
    test_frames: Annotated[int, typer.Option(help=TRAIN_HELP["test_frames"])] = 1000,
    epochs: Annotated[int | None, typer.Option(help=TRAIN_HELP["epochs"])] = None,
    minutes: Annotated[float | None, typer.Option(help=TRAIN_HELP["minutes"])] = None,
    batch_size: Annotated[int | None, typer.Option(help=TRAIN_HELP["batch_size"])] = None,
    learning_rate: Annotated[float | None, typer.Option(help=TRAIN_HELP["learning_rate"])] = None,
    seed: Annotated[int | None, typer.Option(help=TRAIN_HELP["seed"])] = None,
    device: Annotated[str, typer.Option(help=TRAIN_HELP["device"])] = "auto",
    threads: Annotated[int, typer.Option(help=TRAIN_HELP["threads"])] = 1,
    processes: Annotated[int, typer.Option(help=TRAIN_HELP["processes"])] = 1,
    resume: Annotated[bool, typer.Option("--resume", help=TRAIN_HELP["resume"])] = False,
) -> None:
    """Train a network; export best.pt of the folder afterwards."""
    from openmm_mlbench.training.launch import train as train_as_requested
    from openmm_mlbench.training.launch import train_in_processes, without_processes
    from openmm_mlbench.training.start import Request

    if processes != 1:
        train_in_processes(processes, without_processes(list(context.obj or [])[1:]))
        return
    request = Request(
        model=model,
        source=system,
        out=out,
        data=data,
        labels=labels,
        recipe=recipe,
        size=size,
        train_frames=train_frames,
        validation_frames=validation_frames,
        test_frames=test_frames,
        epochs=epochs,
        minutes=minutes,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        threads=threads,
        resume=resume,
        command=_command_line(context),
    )
    line = train_as_requested(request, say)
    if line is not None:
        print(line)


@app.command("training-kit")
def training_kit(
    datasets: Annotated[list[str], typer.Argument(help="Names of data sets that are at hand.")],
    out: OutOption,
) -> None:
    """Write a folder to train from on a machine with torch, numpy, h5py and e3nn alone."""
    from openmm_mlbench.training.kit import write_kit

    for command in write_kit(datasets, out):
        print(command)


def _command_line(context: typer.Context) -> str:
    import shlex

    return shlex.join(["openmm-mlbench", *(context.obj or [])])


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a training folder.")],
    out: OutOption,
    data: DataOption = None,
    remove_mean_force: Annotated[
        bool,
        typer.Option(
            "--remove-mean-force", help="Subtract the mean force, which direct networks do not hold at zero."
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a TorchScript archive with its card; measures the test frames where they are at hand."""
    from openmm_mlbench.workflow import export_checkpoint

    _refuse_to_replace(out, overwrite)
    card = export_checkpoint(checkpoint, out, data=data, remove_mean_force=remove_mean_force)
    error = card.errors.get("force_mae_meV_A")
    print(
        f"{out}: {card.model}, {card.n_parameters:,} parameters, force MAE "
        + ("not measured: test frames are not at hand" if error is None else f"{error:.1f} meV/A")
    )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Model of another package.")],
    kind: Annotated[str, typer.Option("--as", help="nequip, mace, deepmd, schnetpack or torchscript.")],
    out: OutOption,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open a pickled file, which runs whatever code is in it.")
    ] = False,
    python: Annotated[
        str | None,
        typer.Option(help="Interpreter with the package, to open pickled files; this one if not given."),
    ] = None,
    energy_unit: Annotated[
        str | None, typer.Option(help="eV, meV, kcal/mol, kJ/mol or Hartree; eV for nequip, mace and deepmd.")
    ] = None,
    length_unit: Annotated[
        str | None, typer.Option(help="A, nm or Bohr; A for nequip, mace and deepmd.")
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(help="In the order of the model's types, as H,C,O; where the file does not name them."),
    ] = None,
    cutoff: Annotated[
        float | None, typer.Option(help="Reach of a torchscript model, in its unit of length.")
    ] = None,
    signature: Annotated[
        str | None,
        typer.Option(
            help="Of a torchscript model, as 'numbers, positions, cell -> energy, forces'; see docs/importing.md."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Convert the weights of mace, schnetpack, torchscript: float32 or float64."),
    ] = None,
    head: Annotated[str | None, typer.Option(help="Of a MACE model with several.")] = None,
    energy_key: Annotated[
        str, typer.Option(help="Name of the energy among schnetpack's outputs.")
    ] = "energy",
    forces_key: Annotated[
        str, typer.Option(help="Name of the forces among schnetpack's outputs.")
    ] = "forces",
    needs_package: Annotated[
        list[str] | None,
        typer.Option(help="Python package that has to be imported before the model is loaded."),
    ] = None,
    needs_library: Annotated[
        list[Path] | None, typer.Option(help="Library of custom operators that the model calls.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set whose labels the model was trained on; `unknown` if not given."),
    ] = None,
    level_of_theory: Annotated[str | None, typer.Option(help="Of its labels.")] = None,
    source: Annotated[str | None, typer.Option(help="Origin of its data.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of its weights.")] = None,
    structure: Annotated[
        Path | None, typer.Option(help="PDB to try it on; that of the data set's system if not given.")
    ] = None,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make an archive of a model of another package, and check it; exit code 1 when a check fails."""
    from openmm_mlbench import workflow
    from openmm_mlbench.export.adapters.foreign import Stated

    _refuse_to_replace(out, overwrite)
    imported = workflow.import_file(
        file,
        kind,
        out,
        stated=Stated(
            energy_unit=energy_unit,
            length_unit=length_unit,
            elements=None if elements is None else [name.strip() for name in elements.split(",")],
            cutoff=cutoff,
            dtype=dtype,
            head=head,
            energy_key=energy_key,
            forces_key=forces_key,
            signature=signature,
            packages=tuple(needs_package or ()),
            libraries=tuple(str(path) for path in needs_library or ()),
            python=python,
        ),
        trusted=trust,
        dataset=dataset,
        level_of_theory=level_of_theory,
        source=source,
        licence=licence,
        structure=structure,
        data=data,
        note=say,
    )
    _print_check(imported.rows)
    card = imported.card
    units = card.origin.options if card.origin else {}
    error = card.errors.get("force_mae_meV_A")
    print(
        f"{out}: {kind}, {card.dtype}, cutoff {card.cutoff_A:g} A, units {units['energy_unit']} and {units['length_unit']}"
        + ("" if error is None else f", force MAE {error:.1f} meV/A")
    )
    if not all(row.passed for row in imported.rows):
        raise typer.Exit(1)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Id of a shipped model, or a .pt file.")],
    structure: Annotated[
        Path | None, typer.Option(help="PDB of an ordinary structure; the system's own if not given.")
    ] = None,
    driver: Annotated[
        str | None,
        typer.Option(help="Send the calls through it: torchforce, pythonforce (compiled) or auto."),
    ] = None,
    platform: Annotated[
        str | None, typer.Option(help="OpenMM platform for them, or auto; Reference if not given.")
    ] = None,
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Prove an exported model: exit code 1 when a claim of its card fails."""
    import torch

    from openmm_mlbench.export.archive import find_archive
    from openmm_mlbench.export.check import Setup, check_archive
    from openmm_mlbench.topology import read_structure
    from openmm_mlbench.units import NM_PER_ANGSTROM
    from openmm_mlbench.workflow import archive_structure

    torch.set_num_threads(1)
    archive = find_archive(model)
    if structure is None:
        numbers, positions = archive_structure(archive)
    else:
        topology, positions_A = read_structure(structure)
        numbers, positions = topology.atomic_numbers, positions_A * NM_PER_ANGSTROM
    setup = None
    if (driver, platform, precision, threads) != (None, None, "auto", None):
        setup = Setup(
            driver=driver or "auto",
            platform=platform or "Reference",
            precision=precision,
            threads=threads,
            note=say,
        )
    rows = check_archive(archive, numbers, positions, setup=setup)
    _print_check(rows)
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


def _print_check(rows: list[Any]) -> None:
    print_table(
        ["measured", "largest relative difference", "tolerance", ""],
        [
            [
                r.name,
                f"{r.measured:.1e}",
                "not claimed" if r.tolerance is None else f"{r.tolerance:.0e}",
                "ok" if r.passed else "FAILED",
            ]
            for r in rows
        ],
    )


@app.command()
def simulate(
    protocol: Annotated[str, typer.Argument(help="Name of a protocol, or an XML file.")],
    model: Annotated[str, typer.Option(help="Id of a shipped model or reference potential, or a .pt file.")],
    out: OutOption,
    variant: VariantOption = None,
    replicas: Annotated[int | None, typer.Option(help="Runs; the protocol's number if not given.")] = None,
    length: Annotated[
        float | None, typer.Option(help="Of each run, ps; the protocol's if not given.")
    ] = None,
    platform: PlatformOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    driver: DriverOption = "auto",
    jobs: Annotated[int, typer.Option(help="Runs at a time, each a process of its own.")] = 1,
    batch_replicas: Annotated[
        str,
        typer.Option(help="All runs in one Context: on, off, or auto: if a short timing finds that faster."),
    ] = "auto",
    seed: Annotated[int | None, typer.Option(help="Instead of the protocol's.")] = None,
    data: DataOption = None,
    metadynamics: Annotated[
        str, typer.Option(help="Who biases, where the protocol says so: native, plumed or auto.")
    ] = "auto",
    walkers: Annotated[
        str, typer.Option(help="independent, or shared: runs at the same time that feel each other's hills.")
    ] = "independent",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder; a larger --length extends it.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in the folder first.")
    ] = False,
) -> None:
    """Run a protocol with a model into a run folder."""
    from openmm_mlbench import workflow
    from openmm_mlbench.protocol import load_protocol

    statuses = workflow.simulate(
        load_protocol(protocol, variant),
        workflow.find_model(model, driver),
        out,
        data=data,
        note=say,
        replicas=replicas,
        length_ps=length,
        platform=platform,
        precision=precision,
        threads=threads,
        jobs=jobs,
        batch_replicas=batch_replicas,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        metadynamics=metadynamics,
        walkers=walkers,
    )
    for status in statuses:
        print(
            f"{out}: replica {status.replica}: {status.state}, {status.time_ps:g} ps"
            + (f": {status.reason}" if status.reason else "")
        )


@app.command()
def analyze(
    runs: Annotated[list[Path], typer.Argument(help="Folders that simulate wrote.")],
    mode: Annotated[
        str,
        typer.Option(
            help="Definitions: paper (its equations), mdsim (its program) or both, each number saying which."
        ),
    ] = "paper",
    data: DataOption = None,
) -> None:
    """Measure runs by their protocols' lists and write metrics.json into each; other trajectories: measure."""
    from openmm_mlbench.results import wide_angles
    from openmm_mlbench.workflow import measure

    for run in runs:
        metrics = measure(run, data=data, mode=mode)
        rows = [
            [
                r["name"] if len(metrics["modes"]) == 1 else f"{r['name']}, {measurement['mode']}",
                r["status"],
                *(four_digits(r[k]) for k in ("value", "stderr", "floor")),
                r["unit"],
            ]
            for measurement in metrics["measurements"]
            for r in measurement["results"]
        ]
        print_table([str(run), "status", "value", "stderr", "floor", "unit"], rows)
        if odd := wide_angles(metrics):
            print(f"{run}: {odd}")


@app.command()
def run(
    campaign: Annotated[
        Path, typer.Argument(help="YAML file: models, systems, seeds; see docs/campaigns.md.")
    ],
    out: OutOption,
    workers: Annotated[
        int | None,
        typer.Option(help="Jobs at a time; as many as GPUs, or as cores where there are none, if not given."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to run on, as tcp://HOST:8786.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Start a Dask cluster: slurm, or local for one on this machine.")
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            help="Address that the started scheduler listens on; the usual one is for this machine."
        ),
    ] = "127.0.0.1",
    dashboard_port: Annotated[
        int, typer.Option(help="Of the started scheduler's dashboard; 0 takes a free one.")
    ] = 8787,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Certificate of the authority, PEM; all three switch TLS on.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Own certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the matrix: what is done and what would run.")
    ] = False,
) -> None:
    """Train, export, check, simulate, analyze and report a matrix of models, systems and seeds; exit code 1 if a job fails."""
    from openmm_mlbench.campaign import display, runner

    def show(schedule: Any) -> None:
        print_table(list(display.TABLE_COLUMNS), display.table_rows(schedule))
        for columns, rows in (
            (["collapsed", "after", "why"], display.collapse_rows(schedule)),
            (["job", "state", "why", "log"], display.failure_rows(schedule)),
        ):
            if rows:
                print()
                print_table(columns, rows)

    network = None
    if scheduler is not None or cluster is not None:
        from openmm_mlbench.campaign.dask_backend import Network

        network = Network(
            listen=listen, dashboard_port=dashboard_port, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key
        )
    where = runner.Where(workers=workers, scheduler=scheduler, cluster=cluster, network=network)
    if dry_run:
        _, schedule = runner.plan_campaign(campaign, out, where)
        show(schedule)
        say(display.estimate_text(schedule, workers or 1) or "nothing to simulate")
        return
    schedule = runner.run_campaign(campaign, out, where, say=say)
    show(schedule)
    page = runner.report_path(schedule)
    if page is not None:
        print(page)
    if not runner.is_complete(schedule):
        raise typer.Exit(1)


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(help="Analyzed run folders, their metrics.json, or folders of such runs.")
    ],
    out: OutOption = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(help="Folder for every figure as PNG and PDF, one column wide.")
    ] = None,
    tables: Annotated[Path | None, typer.Option(help="Folder for every table as CSV and JSON.")] = None,
) -> None:
    """Write one self-contained page: leaderboards, the paper's figures remade, gaps, every run."""
    from openmm_mlbench.report.page import build_report

    print(build_report(results, out, figures=figures, tables=tables))


@app.command()
def demo(
    out: OutOption = Path("demo"),
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 2,
) -> None:
    """The main job on the embedded default: two models, 2 runs of 5 ps each, one page."""
    from openmm_mlbench import workflow

    print(workflow.demo(out, jobs=jobs, note=say))


@app.command("export-openmm")
def export_openmm(
    protocol: Annotated[str, typer.Argument(help="Name of a protocol, or an XML file.")],
    model: Annotated[str, typer.Option(help="Id of a shipped model, or a .pt file.")],
    out: OutOption,
    variant: VariantOption = None,
    length: Annotated[float | None, typer.Option(help="Of the script's run, ps.")] = None,
    platform: Annotated[str, typer.Option(help="OpenMM platform, or auto.")] = "auto",
    data: DataOption = None,
) -> None:
    """Write system.xml, integrator.xml, state.xml and a short script that plain OpenMM runs."""
    from openmm_mlbench.openmm_export import export_openmm as write
    from openmm_mlbench.potential import Potential
    from openmm_mlbench.protocol import load_protocol
    from openmm_mlbench.simulation.starts import start_configuration
    from openmm_mlbench.workflow import start_of

    potential = Potential.load(model)
    chosen = load_protocol(protocol, variant)
    start = start_of(chosen, potential, data)
    if start.note:
        say(start.note)
    positions, box = start_configuration(start.frames, 0)
    print(write(chosen, potential, positions, out, length_ps=length, platform=platform, box_nm=box))


@app.command()
def speed(
    model: Annotated[
        str,
        typer.Argument(
            help="Id of a shipped model, a .pt file, or an architecture: fresh weights at the paper's size."
        ),
    ],
    system: Annotated[
        list[str] | None, typer.Option(help="ethanol, aspirin, water or lips; may be given again.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Timed seconds on each system.")] = 20.0,
    platform: PlatformOption = "auto",
    precision: PrecisionOption = "auto",
    threads: Annotated[int, typer.Option(help="Threads of torch and of the CPU platform.")] = 1,
    original: Annotated[
        Path | None, typer.Option(help="Of an imported model: the file that OpenMM-ML shall read.")
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also how the time grows in a box eight times as large.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON with every number; a PNG goes beside it.")
    ] = None,
) -> None:
    """How long a step takes: network alone, TorchForce, PythonForce, ASE, OpenMM-ML; least wall / process time."""
    from openmm_mlbench.files import write_json
    from openmm_mlbench.speed import tables
    from openmm_mlbench.speed.plots import save_plot
    from openmm_mlbench.speed.program import machine, measure

    asked: list[str | None] = [*system] if system else [None]
    entries = [
        measure(
            model,
            name,
            seconds=seconds,
            platform=platform,
            precision=precision,
            threads=threads,
            original=original,
            scaling=scaling,
            note=say,
        )
        for name in asked
    ]
    # Too many columns for a terminal side by side.
    for entry in entries:
        cells = zip(tables.COLUMNS, tables.rows([entry])[0], strict=True)
        print_table(["", ""], [list(cell) for cell in cells])
    for line in tables.notes(entries):
        say(line)
    if out is not None:
        write_json(out, {"machine": machine(), "entries": entries})
        save_plot(entries, out.with_suffix(".png"))
        print(out)


@app.command()
def doctor() -> None:
    """Versions, platforms, plugin failures, and which driver will run and why; exit code 1 if something is wrong."""
    from openmm_mlbench.doctor import diagnose

    rows = diagnose()
    print_table(["", "found", ""], [[what, found, "ok" if fine else "PROBLEM"] for what, found, fine in rows])
    if not all(fine for _, _, fine in rows):
        raise typer.Exit(1)


# What typer turns Ctrl-C into.
_INTERRUPTED = 130
# A full or read-only disk, a limit of the user's, a place that does not exist.
_PLACE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: a user's mistake becomes one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        # The arguments are also the context's object: what a card records as its command.
        return app(args=given, obj=given)
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        print(
            "error: interrupted; what was complete is kept, train and simulate go on with --resume",
            file=sys.stderr,
        )
        sys.exit(2)
    except MLBenchError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _PLACE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {error.strerror or _one_line(error)}{where}; nothing that was complete is damaged, free space or give another place",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
