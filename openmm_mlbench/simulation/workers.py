"""Replicas in processes of their own.

Each worker has a pipe to the parent and nothing else in common with the
others, so that killing one cannot block another.  Worker to parent: progress,
then a status or an error line.  Parent to worker: anything means stop; so does
the end of the pipe when the parent dies.
"""

import dataclasses
import multiprocessing
import pickle
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from openmm_mlbench.errors import MLBenchError, SimulationError
from openmm_mlbench.simulation.progress import ProgressCallback, ProgressUpdate
from openmm_mlbench.simulation.replica import run_replica
from openmm_mlbench.simulation.run_folder import ReplicaStatus, read_status
from openmm_mlbench.simulation.task import ReplicaTask


def run_in_processes(
    tasks: list[ReplicaTask], jobs: int, progress: ProgressCallback | None, stopped: threading.Event
) -> list[ReplicaStatus]:
    """Run the tasks, so many at a time; statuses of those that were begun, in order.

    Raises:
        SimulationError: a replica could not start or write; the others were stopped with a checkpoint.
    """
    context = multiprocessing.get_context("spawn")
    waiting, active, ended = list(tasks), list[_Worker](), list[_Worker]()
    stopping = False
    try:
        while active or (waiting and not stopping):
            while waiting and len(active) < jobs and not stopping:
                active.append(_Worker(waiting.pop(0), context))
            ready = wait([worker.connection for worker in active], timeout=0.2)
            for worker in [worker for worker in active if worker.connection in ready]:
                if not worker.receive(progress):
                    active.remove(worker)
                    ended.append(worker)
            # What one replica cannot start with or write, the others cannot either.
            if not stopping and (stopped.is_set() or any(worker.error for worker in ended)):
                stopping = True
                for worker in active:
                    worker.stop()
    finally:
        for worker in active:
            worker.process.terminate()
    for worker in ended:
        if worker.error is not None:
            raise SimulationError(worker.error)
    ended.sort(key=lambda worker: worker.task.replica)
    return [worker.status or worker.lost() for worker in ended]


class _Worker:
    """A replica in a process of its own, seen from the parent."""

    def __init__(self, task: ReplicaTask, context: Any) -> None:
        self.task = task
        self.status: ReplicaStatus | None = None
        self.error: str | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(task, theirs), name=f"replica-{task.replica}")
        try:
            self.process.start()
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise SimulationError(
                f"the force provider cannot be sent to another process ({error}); use jobs=1"
            ) from error
        # Only the worker holds this end now, so its death shows as the end of the pipe.
        theirs.close()

    def receive(self, progress: ProgressCallback | None) -> bool:
        """Take one message; False when the process has ended."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return False
        if isinstance(message, ReplicaStatus):
            self.status = message
        elif isinstance(message, ProgressUpdate):
            if progress is not None:
                progress(message)
        else:
            self.error = str(message)
        return True

    def stop(self) -> None:
        """Ask it to end after the frame that it is at."""
        # It may have ended by itself just now.
        with suppress(OSError):
            self.connection.send("stop")

    def lost(self) -> ReplicaStatus:
        """The status of a replica whose process ended without a word."""
        folder = self.task.folder
        latest = read_status(folder) or ReplicaStatus(
            replica=self.task.replica,
            state="running",
            length_ps=round(self.task.n_steps * self.task.protocol.timestep_ps, 9),
        )
        if latest.state in ("finished", "unstable"):
            return latest
        code = self.process.exitcode
        how = (
            f"was killed by signal {-code}"
            if code is not None and code < 0
            else f"ended with exit code {code}"
        )
        status = dataclasses.replace(
            latest, state="failed", reason="process-died", message=f"its process {how}; go on with --resume"
        )
        status.write(folder)
        return status


def _work(task: ReplicaTask, connection: Connection) -> None:
    """Body of a worker process."""
    terminated = threading.Event()
    # Ctrl-C reaches the whole group: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())

    def should_stop() -> bool:
        return terminated.is_set() or connection.poll()

    def tell(message: Any) -> None:
        # When nobody is left to tell, should_stop sees that too.
        with suppress(OSError):
            connection.send(message)

    try:
        tell(run_replica(task, notify=tell, should_stop=should_stop))
    except MLBenchError as error:
        tell(str(error))
