"""Every data set that this package can make: one command for each, resumable."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openmm_mlbench.data.sampling import ReportProgress
from openmm_mlbench.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted; None stands for the variant's own value.

    Args:
        out: folder to write into.
        n_frames: labelled frames.
        length_ps: length of the dynamics after equilibration, ps.
        seed: of velocities and noise.
        timestep_fs: time step.
        platform: OpenMM platform.
        progress: called with (ps done, ps in all).
    """

    out: Path
    n_frames: int
    length_ps: float
    seed: int
    timestep_fs: float | None = None
    platform: str | None = None
    progress: ReportProgress | None = None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make data of a system; the first of a system is its default.

    Args:
        system: folder in systems/.
        name: of the variant.
        summary: one line for lists.
        n_frames: of the shipped data.
        length_ps: of the shipped data.
        full_n_frames: as many as the paper has.
        full_length_ps: as long as the paper's.
        make: does it; returns the files that it wrote.
    """

    system: str
    name: str
    summary: str
    n_frames: int
    length_ps: float
    full_n_frames: int
    full_length_ps: float
    make: Callable[[str, Request], list[Path]]


def _gfn2(system: str, request: Request) -> list[Path]:
    from openmm_mlbench.references import generate_reference_data

    if request.platform not in (None, "Reference"):
        raise DataError(
            f"GFN2 data are made on the Reference platform, not on {request.platform}; leave --platform out"
        )
    timestep_fs = _GFN2_SHIPPED[system][2] if request.timestep_fs is None else request.timestep_fs
    return list(
        generate_reference_data(
            system,
            request.out,
            n_frames=request.n_frames,
            length_ps=request.length_ps,
            seed=request.seed,
            progress=request.progress,
            timestep_fs=timestep_fs,
        )
    )


def _classical(dataset: str) -> Callable[[str, Request], list[Path]]:
    def make(_: str, request: Request) -> list[Path]:
        from openmm_mlbench.data.classical import generate_classical, settings_for

        settings = settings_for(
            dataset,
            n_frames=request.n_frames,
            length_ps=request.length_ps,
            seed=request.seed,
            platform=request.platform,
            timestep_fs=request.timestep_fs,
        )
        run = generate_classical(settings, request.out / f"{dataset}.npz", progress=request.progress)
        return [run.path]

    return make


# Frames, length (ps) and time step (fs) of the shipped data.
_GFN2_SHIPPED = {
    "aspirin": (800, 160.0, 1.0),
    "ethanol": (1500, 300.0, 0.5),
    "naphthalene": (750, 150.0, 1.0),
    "salicylic-acid": (1000, 200.0, 1.0),
}


def _gfn2_variant(system: str) -> Variant:
    n_frames, length_ps, _ = _GFN2_SHIPPED[system]
    return Variant(
        system=system,
        name="gfn2",
        summary="GFN2-xTB, 500 K, with the reference of h(r)",
        n_frames=n_frames,
        length_ps=length_ps,
        full_n_frames=10_000,
        full_length_ps=1000.0,
        make=_gfn2,
    )


VARIANTS = (
    *(_gfn2_variant(system) for system in _GFN2_SHIPPED),
    Variant(
        system="water",
        name="spcfw-mdsim",
        summary="flexible SPC with doubled force constants, the paper's potential, 300 K",
        n_frames=1500,
        length_ps=600.0,
        full_n_frames=100_000,
        full_length_ps=1000.0,
        make=_classical("water-1k"),
    ),
    Variant(
        system="water",
        name="spcfw",
        summary="flexible SPC as published, 300 K",
        n_frames=1500,
        length_ps=600.0,
        full_n_frames=100_000,
        full_length_ps=1000.0,
        make=_classical("water-spcfw-1k"),
    ),
    Variant(
        system="lips",
        name="fm",
        summary="classical potential force-matched to the real frames, 520 K",
        n_frames=1250,
        length_ps=125.0,
        full_n_frames=25_000,
        full_length_ps=1000.0,
        make=_classical("lips-fm"),
    ),
    Variant(
        system="alanine-dipeptide",
        name="obc",
        summary="AMBER ff03 in implicit water, rigid bonds to hydrogen, 2 fs, 300 K",
        n_frames=1500,
        length_ps=30_000.0,
        full_n_frames=50_000,
        full_length_ps=100_000.0,
        make=_classical("alanine-dipeptide-obc"),
    ),
    Variant(
        system="alanine-dipeptide",
        name="obc-flexible",
        summary="AMBER ff03 in implicit water, flexible, 1 fs, 300 K",
        n_frames=1500,
        length_ps=9_000.0,
        full_n_frames=50_000,
        full_length_ps=100_000.0,
        make=_classical("alanine-dipeptide-obc-flexible"),
    ),
    Variant(
        system="alanine-dipeptide",
        name="explicit",
        summary="AMBER ff03 in 1164 TIP3P waters at 1 bar, forces on the solute, no energies",
        n_frames=100,
        length_ps=200.0,
        full_n_frames=50_000,
        full_length_ps=100_000.0,
        make=_classical("alanine-dipeptide-explicit"),
    ),
)


def find_variant(system: str, name: str | None = None) -> Variant:
    """How data of a system are made.

    Args:
        system: folder in systems/.
        name: of a variant; the system's first if None.

    Raises:
        DataError: there is none.
    """
    there = [variant for variant in VARIANTS if variant.system == system]
    if not there:
        known = dict.fromkeys(variant.system for variant in VARIANTS)
        raise DataError(f"no data of {system!r} can be generated; there are {', '.join(known)}")
    for variant in there:
        if name in (None, variant.name):
            return variant
    names = ", ".join(variant.name for variant in there)
    raise DataError(f"{system} has no variant {name!r}; it has {names}")


def generate(
    system: str,
    out: Path,
    *,
    variant: str | None = None,
    full_scale: bool = False,
    n_frames: int | None = None,
    length_ps: float | None = None,
    seed: int = 0,
    timestep_fs: float | None = None,
    platform: str | None = None,
    progress: ReportProgress | None = None,
) -> list[Path]:
    """Make a data set; a run that was cut off goes on where it stopped.

    Args:
        system: folder in systems/.
        out: folder to write into.
        variant: one of the system's; its first if None.
        full_scale: as many frames and as long as the paper's data, unless given.
        n_frames: labelled frames; as shipped if None.
        length_ps: of the dynamics; as shipped if None.
        seed: of velocities and noise.
        timestep_fs: the variant's own if None.
        platform: OpenMM platform; the variant's own if None.
        progress: called with (ps done, ps in all).

    Returns:
        The files written, the data set first.

    Raises:
        DataError: unknown system or variant, or numbers that do not fit together.
    """
    chosen = find_variant(system, variant)
    frames, length = chosen.n_frames, chosen.length_ps
    if full_scale:
        frames, length = chosen.full_n_frames, chosen.full_length_ps
    request = Request(
        out=out,
        n_frames=frames if n_frames is None else n_frames,
        length_ps=length if length_ps is None else length_ps,
        seed=seed,
        timestep_fs=timestep_fs,
        platform=platform,
        progress=progress,
    )
    return chosen.make(system, request)
