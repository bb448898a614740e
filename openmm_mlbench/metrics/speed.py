"""Steps per second of the simulations themselves, with everything that a run does besides forces."""

from collections.abc import Sequence

from openmm_mlbench.metrics.aggregate import Estimate, join_notes, result_over_replicas
from openmm_mlbench.results import Result


def speed_result(steps_per_second: Sequence[float | None], platform: str = "") -> Result:
    """Mean steps per second over replicas.

    Replicas that share cores slow one another down: this number describes this
    run on this machine and is no benchmark of the model.

    Args:
        steps_per_second: one for each replica; None where it was not written down.
        platform: OpenMM platform, for the note.
    """
    estimates = [
        None if speed is None or speed <= 0 else Estimate(value=float(speed), stderr=None, n=1)
        for speed in steps_per_second
    ]
    note = f"platform {platform}" if platform else ""
    return result_over_replicas(
        "steps_per_second", "1/s", estimates, note=join_notes(note), missing_status="too_short"
    )
