"""Which job runs when: by what is done, what failed and what the ledger knows."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from openmm_mlbench.campaign.jobs import KINDS, Job, Matrix, digests_before, identify
from openmm_mlbench.campaign.lease import SILENCE, Holder, latest
from openmm_mlbench.campaign.ledger import DONE, FAILED, STOPPED, Attempt, Ledger, Record
from openmm_mlbench.campaign.task import (
    BUSY,
    DIED,
    LEASES,
    STOP_FILE,
    Task,
    lease_path,
    variables_to_pass,
    with_digests,
)
from openmm_mlbench.errors import MLBenchError

WAITING, READY, RUNNING, BLOCKED = "waiting", "ready", "running", "blocked"
ENDED = (DONE, FAILED, BLOCKED, STOPPED)
T = TypeVar("T")
_BUSY_PAUSE_S = 10.0
_POLL_S = 0.5


def take_all(ended: "queue.Queue[T]", timeout_s: float) -> list[T]:
    """All that a queue holds, waiting for a first one for so long."""
    found: list[T] = []
    try:
        found.append(ended.get(timeout=timeout_s))
        while True:
            found.append(ended.get_nowait())
    except queue.Empty:
        return found


class Backend(Protocol):
    """Where jobs run."""

    def has_room(self) -> bool:
        """Whether another job can be given."""

    def submit(self, task: dict[str, Any], *, gpu: bool, avoid: str) -> None:
        """Start a job; ``avoid`` is a worker that failed at it, or empty."""

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Key and Outcome of the jobs that have ended, waiting for one for so long."""

    def withdraw(self, keys: Sequence[str]) -> list[str]:
        """Take back jobs that nobody has begun; of those returned ``finished`` says nothing any more."""

    def note(self) -> str:
        """One line when something holds up all jobs, else empty."""

    def close(self) -> None:
        """Give back what it holds; jobs that still run are told to stop."""


@dataclass(kw_only=True)
class JobState:
    """Where a job stands.

    Args:
        state: ``waiting``, ``ready``, ``running``, ``done``, ``failed``, ``blocked`` or ``stopped``.
        identity: empty until everything before it has ended.
        reason: why it failed or cannot run, one line.
        record: of the ledger, when it is done.
        found: it was done before this campaign began.
        failures: tries in a row that failed in this campaign and got no further than those before.
        furthest: what a try has said that was done, at the most.
        avoid: worker that failed at it last.
        not_before: monotonic time, s.
    """

    state: str = WAITING
    identity: str = ""
    reason: str = ""
    record: Record | None = None
    found: bool = False
    failures: int = 0
    furthest: float = 0.0
    avoid: str = ""
    not_before: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to tell the user.

    Args:
        key: of the job.
        state: that it has now; ``again`` for another try.
        reason: one line.
        seconds: that the try took.
        where: it ran.
    """

    key: str
    state: str
    reason: str = ""
    seconds: float = 0.0
    where: str = ""


@dataclass(kw_only=True)
class Schedule:
    """The jobs of a campaign and where they stand.

    Args:
        matrix: the jobs.
        root: folder of results.
        retries: further tries of a job that died or failed in the engine.
        ttl_s: of leases.
        owner: of the campaign's lease, by which workers know that they see the folder.
        tell: is told what happens.
        refresh: is called again and again, to show how far all are.
    """

    matrix: Matrix
    root: Path
    retries: int = 2
    ttl_s: float = 60.0
    owner: str = ""
    tell: Callable[[Event], None] = lambda _: None
    refresh: Callable[[], None] = lambda: None
    states: dict[str, JobState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.root)
        self._note = ""
        # Last sign of life of holders elsewhere, and when it was first seen.
        self._signs: dict[str, tuple[tuple[str, int], float]] = {}
        self.states = {key: JobState() for key in self.matrix.jobs}

    def survey(self) -> None:
        """Find what is done and what could begin; jobs stand after those that they build on."""
        for key, state in self.states.items():
            if state.state == WAITING:
                self._look_at(key, found=True)

    def run(self, backend: Backend, stopped: threading.Event) -> None:
        """Run everything that is not done; returns when all has ended, or was stopped."""
        stopping = False
        while True:
            if stopped.is_set() and not stopping:
                stopping = True
                self.ask_to_stop()
            if stopping:
                self._withdraw(backend)
            else:
                self._submit(backend)
            running = any(state.state == RUNNING for state in self.states.values())
            ready = any(state.state == READY for state in self.states.values())
            if not running and (stopping or not ready):
                break
            for key, outcome in backend.finished(_POLL_S):
                self._take_in(key, outcome, stopping=stopping)
            self._say_what_holds_up(backend)
            self.refresh()
        if stopping:
            for state in self.states.values():
                if state.state in (WAITING, READY):
                    state.state = STOPPED

    def ask_to_stop(self) -> None:
        """Tell all jobs, wherever they run, to end at a point from which they can go on."""
        (self.root / LEASES / STOP_FILE).touch()

    def _withdraw(self, backend: Backend) -> None:
        """Jobs that were given away and that nobody is at work on need not be waited for."""
        waiting = [
            key for key, state in self.states.items() if state.state == RUNNING and not self.is_begun(key)
        ]
        for key in backend.withdraw(waiting):
            self.states[key].state = STOPPED

    def _say_what_holds_up(self, backend: Backend) -> None:
        note = backend.note()
        if note != self._note:
            self._note = note
            if note:
                self.tell(Event(key="workers", state=WAITING, reason=note))

    def _submit(self, backend: Backend) -> None:
        now = time.monotonic()
        ready = [
            key for key, state in self.states.items() if state.state == READY and state.not_before <= now
        ]
        # What is furthest comes first, so that results appear early.
        for key in sorted(ready, key=lambda key: -KINDS.index(self.matrix.jobs[key].kind)):
            if not backend.has_room():
                return
            state = self.states[key]
            state.state = RUNNING
            state.furthest = max(state.furthest, self._done_by(key))
            job = self.matrix.jobs[key]
            backend.submit(asdict(self._task(job, state.identity)), gpu=job.gpu, avoid=state.avoid)

    def _task(self, job: Job, identity: str) -> Task:
        before = {}
        for key in job.before:
            record = self.states[key].record
            if record is not None:
                before[key] = {
                    "digest": record.digest,
                    "outputs": list(record.outputs),
                    "facts": record.facts,
                }
        return Task(
            key=job.key,
            kind=job.kind,
            identity=identity,
            settings=job.settings,
            how=job.how,
            before=before,
            root=str(self.root.resolve()),
            ttl_s=self.ttl_s,
            owner=self.owner,
            variables=variables_to_pass(),
        )

    def _take_in(self, key: str, outcome: Mapping[str, Any], *, stopping: bool) -> None:
        state = self.states[key]
        ended, reason = outcome["state"], outcome["reason"]
        event = {"key": key, "seconds": outcome["seconds"], "where": outcome["where"]}
        if ended == BUSY:
            state.state, state.not_before = READY, time.monotonic() + _BUSY_PAUSE_S
            if state.reason != reason:
                state.reason = reason
                self.tell(Event(state=WAITING, reason=reason, **event))
            return
        if ended == DIED:
            self._note_death(key, outcome)
        if ended in (DIED, FAILED, STOPPED) and not stopping:
            done = self._done_by(key)
            # What gets on is worth another try, as often as its machine ends it: at each walltime of a queue.
            state.failures = 0 if done > state.furthest else state.failures + 1
            state.furthest = max(done, state.furthest)
            state.avoid = outcome["worker"]
            if (outcome["retry"] or ended == STOPPED) and self.retries and state.failures <= self.retries:
                state.state = READY
                self.tell(Event(state="again", reason=reason, **event))
                return
        if ended == DONE:
            state.state, state.reason = DONE, ""
            state.record = Record.from_json(outcome["record"])
        elif stopping:
            state.state = STOPPED
        else:
            state.state, state.reason = FAILED, reason
        self.tell(Event(state=state.state, reason=state.reason, **event))
        for other in self._after(key):
            self._look_at(other)

    def _note_death(self, key: str, outcome: Mapping[str, Any]) -> None:
        """A process that died wrote nothing into the ledger."""
        attempt = Attempt(
            where=outcome["where"],
            began=outcome["began"],
            seconds=outcome["seconds"],
            outcome=DIED,
            reason=outcome["reason"],
        )
        job = self.matrix.jobs[key]
        settings = with_digests(job.settings, digests_before(job, self._digests()))
        self.ledger.add_attempt(key, self.states[key].identity, settings, attempt)

    def _after(self, key: str) -> list[str]:
        """All jobs that build on this one, directly or not, in order."""
        found = {key}
        for other, job in self.matrix.jobs.items():
            if found & set(job.before):
                found.add(other)
        return [other for other in self.matrix.jobs if other in found and other != key]

    def _look_at(self, key: str, *, found: bool = False) -> None:
        """Decide about a job whose predecessors have moved on."""
        state, job = self.states[key], self.matrix.jobs[key]
        if state.state not in (WAITING, BLOCKED):
            return
        lacking = [need for need in job.needs if self.states[need].state in (FAILED, BLOCKED)]
        ended = all(self.states[other].state in ENDED for other in job.before)
        useful = not job.follows or any(self.states[other].state == DONE for other in job.follows)
        if lacking or (ended and not useful):
            state.state = BLOCKED
            state.reason = f"needs {(lacking or list(job.follows) or ['a run'])[0]}"
            return
        if not ended or any(self.states[need].state != DONE for need in job.needs):
            state.state = WAITING
            return
        digests = self._digests()
        state.identity = identify(job, digests)
        record = self._known(job, state.identity, digests)
        if record is not None:
            state.state, state.record, state.found = DONE, record, found
            if not found:
                self.tell(Event(key=key, state=DONE, reason="was done before"))
        else:
            state.state = READY

    def _known(self, job: Job, identity: str, digests: Mapping[str, str]) -> Record | None:
        """A valid record of the job; of simulations also a longer one."""
        record = self.ledger.read(job.key, identity)
        if record is not None and self.ledger.is_valid(record):
            return record
        if job.kind != "simulate":
            return None
        wanted = _without_length(with_digests(job.settings, digests_before(job, digests)))
        for other in self.ledger.read_all(job.key):
            longer = other.settings.get("length_ps", 0.0) > job.settings["length_ps"]
            if longer and _without_length(other.settings) == wanted and self.ledger.is_valid(other):
                return other
        return None

    def _digests(self) -> dict[str, str]:
        return {
            key: state.record.digest
            for key, state in self.states.items()
            if state.state == DONE and state.record is not None
        }

    def told(self, key: str) -> dict[str, Any]:
        """What a running job says of itself; empty before it has begun."""
        holder = self._holder(key)
        return {} if holder is None or holder.released else holder.told

    def is_begun(self, key: str) -> bool:
        """Whether a process holds the job's lease and, as far as can be seen, lives."""
        holder = self._holder(key)
        if holder is None or holder.released:
            return False
        if holder.process.is_here():
            return not holder.process.is_gone()
        # Elsewhere only silence tells.
        sign, now = (holder.owner, holder.beat), time.monotonic()
        if self._signs.get(key, (None, 0.0))[0] != sign:
            self._signs[key] = (sign, now)
        return now - self._signs[key][1] <= SILENCE * holder.ttl_s

    def _done_by(self, key: str) -> float:
        """How far the last try of this very job came, whether it has ended in order or not."""
        holder = self._holder(key)
        if holder is None or holder.told.get("identity") != self.states[key].identity:
            return 0.0
        return float(holder.told.get("done") or 0.0)

    def _holder(self, key: str) -> Holder | None:
        try:
            return latest(lease_path(self.root, key))[1]
        except (MLBenchError, OSError):
            return None


def _without_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "length_ps"}
