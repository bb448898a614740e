"""Leases: who works on a job, and proof that a predecessor is dead before its work is taken over.

A lease is a file ``NAME.GENERATION.json`` that its holder renews. Who takes over makes the file of the next
generation, which only one process can do, and only when the holder is dead:

- on the same machine, when its process is gone;
- from elsewhere, when the lease was not renewed for longer than ``ttl_s`` while the successor watched. Clocks are
  not compared. A holder that could not renew for ``ttl_s`` no longer exists: a timer of the kernel, set anew with
  each renewal, ends it, even if it hangs or was stopped meanwhile.
"""

import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from openmm_mlbench.errors import CampaignError, MLBenchError
from openmm_mlbench.files import read_json, write_json

DEFAULT_TTL_S = 60.0
_RENEWALS_PER_TTL = 6
# A successor watches longer than a holder can live without renewing.
SILENCE = 1.5
_POLL_S = 0.1
# Exit code of a process that finds its lease in other hands.
EXIT_LOST = 75


class HeldError(CampaignError):
    """Somebody who is alive holds the lease."""


class LeaseLost(CampaignError):  # noqa: N818 - a fact, not a mistake
    """Somebody else holds the lease now."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, so that another one can tell whether it still lives.

    Args:
        host: for people.
        machine: equal for two processes that see each other's process ids; empty where that is unknown.
        pid: process id.
        started: when, in the kernel's words, as process ids are used again; empty where that is unknown.
    """

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> "Process":
        """The calling process."""
        return cls(
            host=socket.gethostname(), machine=_machine(), pid=os.getpid(), started=_start_of(os.getpid())
        )

    def is_here(self) -> bool:
        """Whether its process id means something to us."""
        return self.machine != "" and self.machine == _machine()

    def is_gone(self) -> bool:
        """Whether a process of this machine has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        started = _start_of(self.pid)
        return bool(self.started and started) and started != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _machine() -> str:
    """The running kernel and the namespace of process ids in it, which containers have of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start_of(pid: int) -> str:
    """Time of start in ticks since boot; a zombie counts as gone."""
    try:
        words = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return ""
    return "ended" if words[0] in "ZX" else words[19]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What a lease file says.

    Args:
        owner: of this lease, never used twice.
        process: that holds it.
        ttl_s: it is dead when it has not renewed for so long.
        beat: number of renewals.
        released: it has ended in order.
        told: what the holder says about its work.
    """

    owner: str
    process: Process
    ttl_s: float
    beat: int = 0
    released: bool = False
    told: dict[str, Any] = field(default_factory=dict)


class Lease:
    """The right to work on one job, renewed by a thread for as long as it is held.

    Args:
        path: without generation and suffix; its folder is made.
        ttl_s: see the module; the same for all who share the job.
        lethal: end this process when it could not renew. For processes that do one job and nothing else.
        on_lost: called instead, in the renewing thread, when somebody else holds the lease.
    """

    def __init__(
        self,
        path: Path,
        *,
        ttl_s: float = DEFAULT_TTL_S,
        lethal: bool = False,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.ttl_s = ttl_s
        self.lethal = lethal
        self.on_lost = on_lost
        self.told: dict[str, Any] = {}
        # Whom it was taken from, if that process had died.
        self.predecessor: Holder | None = None
        self._owner = uuid.uuid4().hex
        self._generation = 0
        self._beat = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def owner(self) -> str:
        """What its files are known by."""
        return self._owner

    def acquire(self, wait_s: float = 0.0, note: Callable[[str], None] | None = None) -> Self:
        """Take the lease; from a dead predecessor if need be.

        Args:
            wait_s: how long to wait for a holder that lives. Whether one elsewhere lives takes up to 1.5 ``ttl_s``.
            note: is told once whom we wait for.

        Raises:
            HeldError: the holder lives.
            CampaignError: the folder cannot be written.
        """
        begin = changed = time.monotonic()
        seen: Holder | None = None
        while True:
            generation, holder = latest(self.path)
            if holder is None or holder.released or (holder.process.is_here() and holder.process.is_gone()):
                if self._take(generation + 1):
                    self.predecessor = None if holder is None or holder.released else holder
                    return self
                continue
            now = time.monotonic()
            if seen is None and note is not None and (wait_s > 0 or not holder.process.is_here()):
                note(f"waiting for {holder.process}")
            if seen is None or (seen.owner, seen.beat) != (holder.owner, holder.beat):
                lives, changed = seen is not None, now
                seen = holder
            else:
                lives = False
            if not holder.process.is_here() and now - changed > SILENCE * holder.ttl_s:
                if self._take(generation + 1):
                    self.predecessor = holder
                    return self
                continue
            known = lives or holder.process.is_here()
            if now - begin >= wait_s and known:
                raise HeldError(f"{holder.process} is at work there")
            time.sleep(_POLL_S)

    def _take(self, generation: int) -> bool:
        """Make the file of this generation, unless it exists."""
        self._generation = generation
        target = _file(self.path, generation)
        mine = target.with_name(f".{target.name}.{self._owner}")
        try:
            write_json(mine, asdict(self._holder()))
            # A link, because it comes with its contents and fails where there is one.
            os.link(mine, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise CampaignError(
                f"{target.parent}: cannot be written ({error.strerror}); free some space, or choose a folder whose file system has hard links"
            ) from error
        finally:
            mine.unlink(missing_ok=True)
        for number, path in _files(self.path):
            if number < generation:
                path.unlink(missing_ok=True)
        self._arm(self.ttl_s)
        self._thread = threading.Thread(target=self._keep, name=f"lease {self.path.name}", daemon=True)
        self._thread.start()
        return True

    def _holder(self, *, released: bool = False) -> Holder:
        return Holder(
            owner=self._owner,
            process=Process.current(),
            ttl_s=self.ttl_s,
            beat=self._beat,
            released=released,
            told=dict(self.told),
        )

    def _arm(self, seconds: float) -> None:
        if self.lethal:
            # The signal's usual effect, which nothing of ours changes, is the end of the process.
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _keep(self) -> None:
        pause = min(self.ttl_s / _RENEWALS_PER_TTL, 2.0)
        while not self._ended.wait(pause):
            try:
                self.renew()
            except LeaseLost:
                if self.lethal:
                    os._exit(EXIT_LOST)
                if self.on_lost is not None:
                    self.on_lost()
                return
            except (OSError, MLBenchError):
                # Tried again until the timer ends us.
                continue

    def renew(self) -> None:
        """Say that we live.

        Raises:
            LeaseLost: somebody else holds the lease.
        """
        began = time.monotonic()
        self._check_mine()
        self._beat += 1
        write_json(_file(self.path, self._generation), asdict(self._holder()))
        self._check_mine()
        # From before the writing: that is when a watcher may have looked.
        self._arm(max(0.001, self.ttl_s - (time.monotonic() - began)))

    def _check_mine(self) -> None:
        generation, _ = latest(self.path)
        if generation > self._generation:
            raise LeaseLost(f"{self.path}: taken over by somebody else")

    def release(self) -> None:
        """Give it back; whoever comes next need not wait."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(LeaseLost):
            self._check_mine()
            write_json(_file(self.path, self._generation), asdict(self._holder(released=True)))
        self._arm(0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def latest(path: Path) -> tuple[int, Holder | None]:
    """Generation and contents of the newest lease file; 0 and None where there is none.

    Raises:
        CampaignError: it is damaged.
    """
    while True:
        files = _files(path)
        if not files:
            return 0, None
        generation, file = max(files)
        try:
            record = read_json(file)
            return generation, Holder(**{**record, "process": Process(**record["process"])})
        except FileNotFoundError:
            # A successor has cleared it away.
            continue
        except (MLBenchError, TypeError, KeyError) as error:
            raise CampaignError(f"{file}: not a lease ({error}); remove it if nothing runs there") from error


def _file(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.{generation}.json")


def _files(path: Path) -> list[tuple[int, Path]]:
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)\.json")
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    found = ((pattern.fullmatch(name), name) for name in names)
    return [(int(match[1]), path.parent / name) for match, name in found if match]
