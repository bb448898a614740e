"""Jobs on this machine: so many processes at a time, each with a GPU of its own where there are any."""

import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from openmm_mlbench.campaign.scheduling import take_all
from openmm_mlbench.campaign.task import DIED, Outcome, close_idle, run_task


class LocalBackend:
    """Runs jobs in processes of this machine.

    Args:
        workers: jobs at a time; one for each GPU, or for each core where there are none, if None.
        threads: that one job takes.
        gpus: what ``CUDA_VISIBLE_DEVICES`` may hold; found out if None.
    """

    def __init__(
        self, workers: int | None = None, *, threads: int = 1, gpus: list[str] | None = None
    ) -> None:
        self.gpus = find_gpus() if gpus is None else gpus
        self.workers = workers or len(self.gpus) or max(1, n_cores() // threads)
        self._free = list(range(self.workers))
        self._ended: queue.Queue[tuple[int, str, dict[str, Any]]] = queue.Queue()

    def describe(self) -> list[str]:
        """Lines for the user."""
        gpus = f", GPUs {', '.join(self.gpus)}" if self.gpus else ""
        return [f"{self.workers} job{'' if self.workers == 1 else 's'} at a time on this machine{gpus}"]

    def has_room(self) -> bool:
        """Whether another job can be given."""
        return bool(self._free)

    def submit(self, task: dict[str, Any], *, gpu: bool, avoid: str) -> None:
        """Start a job on the first free place."""
        del gpu, avoid
        place = self._free.pop(0)
        variables = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)]} if self.gpus else {}
        thread = threading.Thread(target=self._work, args=(place, task, variables), daemon=True)
        thread.start()

    def _work(self, place: int, task: dict[str, Any], variables: dict[str, str]) -> None:
        try:
            outcome = run_task(task, variables=variables)
        except OSError as error:
            # No memory or process left: the next try may find some.
            died = Outcome(state=DIED, reason=f"cannot be started ({error.strerror or error})", retry=True)
            outcome = vars(died) | {"where": "here"}
        self._ended.put((place, task["key"], outcome))

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Key and Outcome of jobs that have ended."""
        found = take_all(self._ended, timeout_s)
        for place, _, _ in found:
            self._free.append(place)
        return [(key, outcome) for _, key, outcome in found]

    def withdraw(self, keys: Sequence[str]) -> list[str]:
        """Nothing waits here: jobs begin when they are given."""
        del keys
        return []

    def note(self) -> str:
        """Nothing to say."""
        return ""

    def close(self) -> None:
        """End processes that wait for work; jobs that still run see the end of their pipe when this process ends."""
        close_idle()


def find_gpus() -> list[str]:
    """GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        answer = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(answer.stdout.splitlines()) if line.startswith("GPU ")]


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
