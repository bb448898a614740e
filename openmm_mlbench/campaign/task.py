"""One job in a process of its own, started and watched from a worker.

A crash, a full memory or a hanging GPU ends that process and nothing else. The worker holds the pipe to its input: when
the worker dies, the end of the pipe tells the job to stop. See ``child`` for the other side.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openmm_mlbench.campaign.lease import EXIT_LOST, latest
from openmm_mlbench.campaign.ledger import DONE, FAILED
from openmm_mlbench.errors import MLBenchError

LOGS = "logs"
LEASES = ".leases"
STOP_FILE = "stop"
DIED, BUSY = "died", "busy"
# Files that a job elsewhere has written may show late on a network file system.
VISIBLE_WITHIN_S = 60.0
_LOOK_S = 0.5
# Tells a job which worker it runs for.
WORKER_VARIABLE = "MLBENCH_CAMPAIGN_WORKER"
# What a worker elsewhere must know from the machine that plans.
VARIABLES = ("MLBENCH_DATA", "MLBENCH_CACHE", "MLBENCH_MIRROR")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job with all that a process needs to do it; plain JSON.

    Args:
        key: of the job.
        kind: of the job.
        identity: of the job.
        settings: what the identity was made of.
        how: where and how it runs.
        before: digest, outputs and facts of the jobs before it that are done.
        root: folder of results.
        ttl_s: of leases.
        owner: of the campaign's lease, which lies in that folder; not looked for if empty.
        variables: of the environment.
    """

    key: str
    kind: str
    identity: str
    settings: dict[str, Any]
    how: dict[str, Any]
    before: dict[str, dict[str, Any]]
    root: str
    ttl_s: float
    owner: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The key without the kind."""
        return self.key.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a try ended.

    Args:
        state: ``done``, ``failed``, ``stopped``, ``died`` (without a word) or ``busy`` (somebody else is at it).
        reason: one line.
        retry: whether another try may end better.
        record: of the ledger, as JSON, where the process wrote one.
        where: host, process, worker.
        worker: that watched it, empty for local ones.
        began: UTC.
        seconds: that it took.
    """

    state: str
    reason: str = ""
    retry: bool = False
    record: dict[str, Any] | None = None
    where: str = ""
    worker: str = ""
    began: str = ""
    seconds: float = 0.0


def with_digests(settings: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """What a record keeps for readers: all that was hashed."""
    return settings | {"before": digests}


def variables_to_pass() -> dict[str, str]:
    """Where data lie, for processes with another working directory."""
    return {name: os.path.abspath(os.environ[name]) for name in VARIABLES[:2] if os.environ.get(name)} | {
        name: os.environ[name] for name in VARIABLES[2:] if os.environ.get(name)
    }


def lease_path(root: str | Path, key: str) -> Path:
    """Of a job's lease."""
    return Path(root) / LEASES / key


def campaign_lease(root: str | Path) -> Path:
    """Of the campaign itself."""
    return Path(root) / LEASES / "campaign"


def _sees_results(task: dict[str, Any]) -> bool:
    """Whether the folder of results here is the one that the campaign plans in."""
    end = time.monotonic() + VISIBLE_WITHIN_S
    while task["owner"]:
        with suppress(MLBenchError, OSError):
            # Looking for a lease makes its folder.
            holder = latest(campaign_lease(task["root"]))[1] if Path(task["root"], LEASES).is_dir() else None
            if holder is not None and holder.owner == task["owner"]:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_S)
    return True


def run_task(
    task: dict[str, Any], *, variables: dict[str, str] | None = None, worker: str = ""
) -> dict[str, Any]:
    """Do a job in a process of its own and wait for it.

    Args:
        task: a Task as a plain dictionary.
        variables: of the environment, over the task's own: which GPU it sees.
        worker: address of the worker, for the ledger.

    Returns:
        An Outcome as a plain dictionary; this function raises for nothing that a job does.
    """
    began, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    if not _sees_results(task):
        host = socket.gethostname()
        reason = (
            f"{host} does not see the campaign's folder at {task['root']}; mount it there under the same path on every "
            "machine, or take that worker away"
        )
        unseen = Outcome(
            state=FAILED,
            reason=reason,
            retry=True,
            where=host,
            worker=worker,
            began=began,
            seconds=VISIBLE_WITHIN_S,
        )
        return asdict(unseen)
    changes = {"OMP_NUM_THREADS": str(_threads(task)), WORKER_VARIABLE: worker}
    changes |= task["variables"] | (variables or {})
    process = _take_idle(changes) or JobProcess(changes, log_path(task))
    said = process.do(task)
    gpu = (os.environ | changes).get("CUDA_VISIBLE_DEVICES", "")
    uses_gpu = task["kind"] in ("train", "simulate") and bool(gpu or shutil.which("nvidia-smi"))
    if said is not None and said.state == DONE and not uses_gpu:
        _put_idle(process)
    else:
        # After a failure, or with memory of a GPU in use, the next job begins in a fresh process.
        process.close()
    outcome = said if said is not None else _without_a_word(process.process.returncode, task)
    where = f"process {process.process.pid} on {socket.gethostname()}" + (f", GPU {gpu}" if gpu else "")
    return asdict(outcome) | {
        "where": where + (f", {worker}" if worker else ""),
        "worker": worker,
        "began": began,
        "seconds": round(time.monotonic() - clock, 1),
    }


class JobProcess:
    """A process that does jobs, one at a time; loading torch and OpenMM takes longer than many a job.

    Args:
        changes: of the environment.
        log: where it writes what goes wrong before its first job.
    """

    def __init__(self, changes: dict[str, str], log: Path) -> None:
        self.changes = changes
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "openmm_mlbench.campaign.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | changes,
                # Ctrl-C is for whoever plans, who then asks the jobs to stop.
                start_new_session=True,
            )

    def do(self, task: dict[str, Any]) -> Outcome | None:
        """Do a job; None if the process ended without a word."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            self.close()
            return None
        return Outcome(**json.loads(line))

    def close(self) -> None:
        """Wait for its end, which the end of its input brings about."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()


_idle: list[JobProcess] = []
_idle_lock = threading.Lock()


def _take_idle(changes: dict[str, str]) -> JobProcess | None:
    """A process that waits for work with this environment; those that have died are forgotten."""
    with _idle_lock:
        for process in list(_idle):
            if process.process.poll() is not None:
                _idle.remove(process)
            elif process.changes == changes:
                _idle.remove(process)
                return process
    return None


def _put_idle(process: JobProcess) -> None:
    with _idle_lock:
        _idle.append(process)


def close_idle() -> None:
    """End the processes that wait for work."""
    with _idle_lock:
        for process in _idle:
            process.close()
        _idle.clear()


def log_path(task: dict[str, Any]) -> Path:
    """What a job prints."""
    return Path(task["root"]) / LOGS / f"{task['key']}.log"


def _threads(task: dict[str, Any]) -> int:
    how = task["how"]
    threads = how.get("request", {}).get("threads") or how.get("options", {}).get("threads") or 1
    return int(threads)


def _without_a_word(code: int, task: dict[str, Any]) -> Outcome:
    if code == EXIT_LOST:
        how = "lost its lease to another process"
    elif code < 0:
        how = f"was killed by signal {-code}"
    else:
        how = f"ended with exit code {code}"
    return Outcome(state=DIED, reason=f"its process {how}; see {LOGS}/{task['key']}.log", retry=True)
