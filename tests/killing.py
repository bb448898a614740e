"""Ending a run from outside at any moment: no clean-up code gets to run.

Three ways to choose the moment in a forked child: when a condition holds (random moments), at the
n-th file operation (every moment between two of them), and in the middle of a write.  A process
that others start is held at a file operation, so that no machine is too fast to kill it in time.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

FILE_EVENTS = {"open", "os.rename", "os.truncate", "os.remove", "os.chmod", "os.mkdir"}


def in_child(work, *, kill_when=None, prepare=None):
    """Run ``work()`` in a forked child; its exit code, or minus the signal that ended it.

    Args:
        work: does not return to the caller's code.
        kill_when: asked again and again; once it is true the child is killed.
        prepare: called in the child before.
    """
    child = os.fork()
    if child == 0:
        try:
            if prepare is not None:
                prepare()
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing may come back into the test's own process
            traceback.print_exc()
            os._exit(3)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if kill_when is not None and kill_when():
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.0005)


class Hold:
    """The first process to come to a file operation waits just before it, until it is let go or killed.

    Args:
        folder: made for the signs that the processes give each other.
        name: end of the path that is about to be opened or put in place.
        number: how many times, from 1.

    Attributes:
        variables: environment of the processes among which it is.
    """

    def __init__(self, folder, name, number):
        self.folder = folder
        folder.mkdir()
        paths = [str(Path(__file__).parent / "holding"), os.environ.get("PYTHONPATH", "")]
        self.variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "HOLD_AT": json.dumps({"name": name, "number": number, "folder": str(folder)}),
        }

    def wait(self, process=None, seconds=300.0):
        """Id of the process, once it is held; ``process`` must not end before."""
        held, end = self.folder / "held", time.monotonic() + seconds
        while not (held.exists() and held.read_text()):
            assert process is None or process.poll() is None, process.communicate()
            assert time.monotonic() < end, "nobody came to the place"
            time.sleep(0.01)
        return int(held.read_text())

    def let_go(self):
        (self.folder / "open").touch()


def attempts(folder):
    """Folders for a run that is to be killed in time, which a machine that is busy elsewhere may miss."""
    for number in range(20):
        yield folder / f"run-{number}"


def bytes_written(out, name="log.csv"):
    """Bytes of the growing files of all replicas."""
    total = 0
    for path in out.glob(f"replica-*/{name}"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def killed_at_operation(work, folder, number):
    """Whether the child was killed just before its file operation of this number (from 0) in the folder."""
    count = 0

    def die(event, arguments):
        nonlocal count
        if event not in FILE_EVENTS or not any(str(folder) in str(argument) for argument in arguments[:2]):
            return
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    code = in_child(work, prepare=lambda: sys.addaudithook(die))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def killed_at_size(work, n_bytes):
    """Whether the child was killed while a file of its grew over so many bytes, which is where the file ends."""

    def limit():
        # Python ignores the signal, which turns it into an error.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    code = in_child(work, prepare=limit)
    assert code in (0, -signal.SIGXFSZ)
    return code != 0


def assert_same_run(out, other):
    """Byte for byte, timing columns aside; random streams by the binary checkpoints."""
    folders = sorted(path.name for path in other.glob("replica-*"))
    assert folders
    assert sorted(path.name for path in out.glob("replica-*")) == folders
    for name in folders:
        one, two = out / name, other / name
        kept = [
            path
            for path in sorted(two.iterdir())
            if path.suffix in (".dcd", ".chk") or path.name in ("HILLS", "COLVAR")
        ]
        for path in kept:
            assert (one / path.name).read_bytes() == path.read_bytes(), path.name
        assert log_without_timing(one) == log_without_timing(two)
        # Nothing half written stays behind.
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())


def log_without_timing(folder):
    """Lines of a log.csv without the last column, the only one that a clock decides."""
    return [line.rsplit(",", 1)[0] for line in (folder / "log.csv").read_text().splitlines()]
