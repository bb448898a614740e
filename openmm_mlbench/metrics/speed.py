"""Speed of the simulations themselves, with everything that a run does besides forces.

What it says: how long this run took on this machine.  When it misleads: replicas that share
cores slow one another down, and ns per day flatters long time steps; seconds per million
atom-steps compare systems of different sizes at a cost that grows with their atoms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.aggregate import Estimate, join_notes, result_over_replicas
from openmm_mlbench.results import Result

SECONDS_PER_DAY = 86_400
FS_PER_NS = 1e6


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of one run in three units.

    Args:
        steps_per_second: integration steps per second of wall time.
        ns_per_day: simulated time per day.
        s_per_million_atom_steps: seconds for a million atoms times steps.
    """

    steps_per_second: float
    ns_per_day: float
    s_per_million_atom_steps: float


def compute_speed(steps_per_second: float, timestep_fs: float, n_atoms: int) -> Speed:
    """The same speed in three units.

    ns/day = steps/s * 86400 * dt;   s per 10^6 atom-steps = 10^6 / (steps/s * n_atoms)

    Args:
        steps_per_second: integration steps per second of wall time.
        timestep_fs: time step, fs.
        n_atoms: atoms of the system.

    Raises:
        MetricError: a number is not above zero.
    """
    if not (steps_per_second > 0 and timestep_fs > 0 and n_atoms > 0):
        raise MetricError(
            f"{steps_per_second} steps/s of {timestep_fs} fs with {n_atoms} atoms; wanted all of them above zero"
        )
    return Speed(
        steps_per_second=steps_per_second,
        ns_per_day=steps_per_second * SECONDS_PER_DAY * timestep_fs / FS_PER_NS,
        s_per_million_atom_steps=1e6 / (steps_per_second * n_atoms),
    )


def context_speeds(
    steps_per_second: Sequence[float | None], batches: Sequence[Sequence[int] | None]
) -> list[float | None]:
    """Steps per second of each Context: those of replicas that shared one are steps of all of them together.

    Args:
        steps_per_second: one for each replica, its own steps; None where it was not written down.
        batches: for each replica the numbers of those that shared its Context, itself among them; None: it
            had its own.

    Returns:
        One speed for each Context, comparable between runs that were batched and runs that were not.
    """
    speeds: list[float | None] = []
    shared: dict[tuple[int, ...], list[float]] = {}
    for speed, batch in zip(steps_per_second, batches, strict=True):
        if batch is None or len(batch) < 2:
            speeds.append(speed)
        elif speed is not None and speed > 0:
            # One that was frozen out early knows only how fast it was until then.
            shared.setdefault(tuple(sorted(batch)), []).append(float(speed) * len(batch))
    return speeds + [sum(found) / len(found) for found in shared.values()]


def speed_results(
    steps_per_second: Sequence[float | None],
    timestep_fs: float,
    n_atoms: int,
    platform: str = "",
    sharing: int = 1,
) -> list[Result]:
    """``steps_per_second``, ``ns_per_day`` and ``s_per_million_atom_steps``, means over replicas.

    Replicas that share cores slow one another down: these numbers describe this
    run on this machine and are no benchmark of the model.

    Args:
        steps_per_second: one for each Context, see :func:`context_speeds`; None where it was not written down.
        timestep_fs: time step, fs.
        n_atoms: atoms of the system.
        platform: OpenMM platform, for the note.
        sharing: largest number of replicas in a Context, for the note.
    """
    speeds = [
        None if speed is None or speed <= 0 else compute_speed(float(speed), timestep_fs, n_atoms)
        for speed in steps_per_second
    ]
    where = f"platform {platform}" if platform else ""
    together = f"{sharing} replicas in one Context, their steps added" if sharing > 1 else ""
    units = {
        "steps_per_second": ("1/s", ""),
        "ns_per_day": ("ns/day", f"time step {timestep_fs:g} fs"),
        "s_per_million_atom_steps": ("s", f"{n_atoms} atoms"),
    }
    return [
        result_over_replicas(
            name,
            unit,
            [
                None if speed is None else Estimate(value=float(getattr(speed, name)), stderr=None, n=1)
                for speed in speeds
            ],
            note=join_notes(
                "one run has no standard error" if sum(s is not None for s in speeds) == 1 else "",
                note,
                where,
                together,
            ),
        )
        for name, (unit, note) in units.items()
    ]
