"""The process of a job: takes its task from standard input, holds the lease, works, writes the ledger, reports."""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from openmm_mlbench.campaign.lease import HeldError, Lease, Process
from openmm_mlbench.campaign.ledger import DONE, FAILED, STOPPED, Attempt, Ledger, Record, digest_of
from openmm_mlbench.campaign.task import (
    BUSY,
    DIED,
    LEASES,
    STOP_FILE,
    VISIBLE_WITHIN_S,
    WORKER_VARIABLE,
    Outcome,
    Task,
    lease_path,
    log_path,
    with_digests,
)
from openmm_mlbench.campaign.work import WORK, EngineFailure, Result, digests_of
from openmm_mlbench.errors import MLBenchError

# What a job that was asked to stop may take to get to its next frame and write a checkpoint.
_GRACE_S = 120.0
_EXIT_HANGING = 76
_STOP_POLL_S = 0.5
_STOPPED = "stopped; the same command goes on"


class Stopped(BaseException):
    """Asked to stop, in work that does not ask by itself."""


class _Input:
    """Tasks from standard input; its end means that the worker is dead, or needs us no longer."""

    def __init__(self) -> None:
        self.tasks: queue.Queue[str | None] = queue.Queue()
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        text = b""
        # The descriptor itself: a thread inside Python's own reader would hold up the end of the process.
        while chunk := os.read(0, 65536):
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                self.tasks.put(line.decode())
        self.ended.set()
        self.tasks.put(None)


def main() -> NoReturn:
    """Do jobs until the input ends; each answers with a line on standard output, its Outcome."""
    words = os.fdopen(os.dup(1), "w", encoding="utf-8")
    given = _Input()
    while (line := given.tasks.get()) is not None:
        task = Task(**json.loads(line))
        os.chdir(task.root)
        _write_to(log_path(asdict(task)))
        outcome = _guarded(task, given.ended)
        sys.stderr.flush()
        with suppress(BrokenPipeError):
            words.write(json.dumps(asdict(outcome)) + "\n")
            words.flush()
    # All is written; tearing down engines and GPUs could only fail.
    os._exit(0)


def _write_to(log: Path) -> None:
    """Send whatever anybody prints to the log of the job."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _guarded(task: Task, orphaned: threading.Event) -> Outcome:
    try:
        with _stopping(task, orphaned), ExitStack() as held:
            leases = [Lease(path, ttl_s=task.ttl_s, lethal=True) for path in _lease_paths(task)]
            for lease in leases:
                # Long enough to see whether a predecessor elsewhere is dead.
                held.enter_context(lease.acquire(wait_s=3 * task.ttl_s, note=_log))
            return _attempt(task, leases[0])
    except HeldError as error:
        return Outcome(state=BUSY, reason=str(error))
    except MLBenchError as error:
        return Outcome(state=FAILED, reason=_one_line(error))
    except Stopped:
        return Outcome(state=STOPPED, reason=_STOPPED)


def _lease_paths(task: Task) -> list[Path]:
    """The job's; with it, those of replicas that may have been jobs of their own when a predecessor began."""
    members = task.settings["replicas"] if task.kind == "simulate" else []
    group = task.key.rpartition("/")[0]
    keys = [task.key, *(f"{group}/replica-{member}" for member in members)]
    return [lease_path(task.root, key) for key in dict.fromkeys(keys)]


def _attempt(task: Task, lease: Lease) -> Outcome:
    ledger = Ledger(Path(task.root))
    began, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    _log(f"{began} {task.key}: begins, {Process.current()}")
    former = ledger.read(task.key, task.identity)
    if former is not None and ledger.is_valid(former):
        # A predecessor that nobody waited for has finished it.
        return Outcome(state=DONE, record=former.as_json())
    former = _with_predecessor(ledger, task, former, lease)
    result, state, reason, retry = None, DONE, "", False

    def tell(**told: Any) -> None:
        # The lease keeps its name when the job becomes another one, by a new recipe for example.
        lease.told = {"identity": task.identity, **told}

    try:
        _wait_for_files(task)
        result = WORK[task.kind](task, former, tell)
    except Stopped:
        state, reason = STOPPED, _STOPPED
    except MLBenchError as error:
        state, reason, retry = FAILED, _one_line(error), isinstance(error, EngineFailure)
    except Exception as error:  # noqa: BLE001 - whatever a model or an engine raises ends this job alone
        traceback.print_exc()
        state, reason, retry = FAILED, f"{type(error).__name__}: {_one_line(error)}", True
    # What is left to do takes milliseconds.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if result is not None and result.stopped:
        state, reason, result = STOPPED, _STOPPED, None
    record = _record(task, ledger, former, state, reason, result)
    attempt = Attempt(
        where=_where(),
        began=began,
        seconds=round(time.monotonic() - clock, 1),
        outcome=state,
        reason=reason,
    )
    record = record.with_attempt(attempt)
    ledger.write(record)
    _log(
        f"{datetime.now(UTC).isoformat(timespec='seconds')} {task.key}: {state}{': ' + reason if reason else ''}"
    )
    return Outcome(state=state, reason=reason, retry=retry, record=record.as_json())


def _with_predecessor(ledger: Ledger, task: Task, former: Record | None, lease: Lease) -> Record | None:
    """Note the try of a predecessor that died, with its worker or its machine, before it could."""
    dead = lease.predecessor
    if dead is None or (
        former is not None and any(a.where.startswith(str(dead.process)) for a in former.attempts)
    ):
        return former
    attempt = Attempt(
        where=str(dead.process),
        began="",
        seconds=0.0,
        outcome=DIED,
        reason="ended without a word; taken over",
    )
    return ledger.add_attempt(task.key, task.identity, with_digests(task.settings, digests_of(task)), attempt)


def _record(
    task: Task, ledger: Ledger, former: Record | None, state: str, reason: str, result: Result | None
) -> Record:
    # A try that failed does not forget what was once finished: a file that has changed since is still known by it.
    outputs = ledger.outputs_of(result.outputs) if result is not None else former.outputs if former else {}
    return Record(
        key=task.key,
        identity=task.identity,
        settings=with_digests(task.settings, digests_of(task)),
        state=state,
        reason=reason,
        digest="" if result is None else result.digest or digest_of(outputs),
        outputs=outputs,
        facts={} if result is None else result.facts,
        attempts=() if former is None else former.attempts,
    )


def _wait_for_files(task: Task) -> None:
    end = time.monotonic() + VISIBLE_WITHIN_S
    paths = [Path(task.root) / path for item in task.before.values() for path in item["outputs"]]
    while not all(path.is_file() for path in paths) and time.monotonic() < end:
        time.sleep(0.2)


@contextmanager
def _stopping(task: Task, orphaned: threading.Event) -> Iterator[None]:
    """End the work in order when the worker dies or the campaign is stopped."""
    # The runner of simulations has a handler of its own, which ends them at a frame.
    signal.signal(signal.SIGTERM, _raise_stopped)
    over = threading.Event()
    threading.Thread(target=_watch, args=(task, orphaned, over), daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        over.set()


def _raise_stopped(*_: Any) -> None:
    raise Stopped


def _watch(task: Task, orphaned: threading.Event, over: threading.Event) -> None:
    file = os.path.join(task.root, LEASES, STOP_FILE)
    while not over.wait(_STOP_POLL_S):
        if orphaned.is_set() or os.path.exists(file):
            os.kill(os.getpid(), signal.SIGTERM)
            if not over.wait(_GRACE_S):
                os._exit(_EXIT_HANGING)
            return


def _where() -> str:
    gpu, worker = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get(WORKER_VARIABLE)
    return ", ".join(filter(None, (str(Process.current()), gpu and f"GPU {gpu}", worker)))


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
