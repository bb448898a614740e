"""A training from its request to its last line, in one process or several."""

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

from openmm_mlbench.errors import MLBenchError, TrainingError
from openmm_mlbench.training.distributed import ContactLostError, joined, world_size
from openmm_mlbench.training.progress import TrainingDisplay
from openmm_mlbench.training.start import Request, chosen_device, new_trainer

# Where several processes fail for the same reason the first one says it, and of one that died whoever started it;
# it ends the others meanwhile.
PATIENCE_S = 10.0
# Exit code of a program that has said its error itself.
MISTAKE = 2


def train(request: Request, say: Callable[[str], None]) -> str | None:
    """Train as requested.

    Args:
        request: what and how.
        say: receives what was chosen where the user left it open.

    Returns:
        One line about the result; None in all processes but the first.

    Raises:
        MLBenchError: as :func:`new_trainer` and :meth:`Trainer.run` do.
    """
    try:
        with joined(chosen_device(request.device)) as (group, device):
            trainer = new_trainer(request, say if group.writes else _silent, group, device)
            if (
                group.size > 1
                and group.writes
                and trainer.has_batch_statistics
                and not device.startswith("cuda")
            ):
                say(
                    "batch normalisation sees each process's share of a batch alone: on processors torch has no other"
                )
            label = f"{request.model} on {trainer.frames.name}"
            with TrainingDisplay(label, trainer.last_epoch) if group.writes else nullcontext() as display:
                best = trainer.run(resume=request.resume, on_epoch=display)
    except (MLBenchError, KeyboardInterrupt) as error:
        if world_size() > 1 and (os.environ["RANK"] != "0" or isinstance(error, ContactLostError)):
            time.sleep(PATIENCE_S)
        raise
    if not group.writes:
        return None
    return (
        f"{best}: validation force MAE {trainer.best_force_mae:.1f} meV/A after {trainer.epoch} epochs, "
        f"{trainer.seconds / 60:.1f} min"
    )


def _silent(_: str) -> None:
    pass


def train_in_processes(n_processes: int, arguments: list[str]) -> None:
    """Start this program several times on this machine, as torchrun does.

    Args:
        n_processes: how many.
        arguments: of ``python -m openmm_mlbench.training``.

    Raises:
        TrainingError: one of them ended, and with it all.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if n_processes < 1:
        raise TrainingError(f"processes is {n_processes}; use 1 or more")
    if world_size() > 1:
        raise TrainingError(f"torchrun has started {world_size()} processes already; leave out --processes")
    # It logs what follows here in one line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    configuration = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_processes,
        run_id="openmm-mlbench",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    launcher = elastic_launch(configuration, sys.executable)
    try:
        launcher("-m", "openmm_mlbench.training", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == MISTAKE:
            raise SystemExit(MISTAKE) from error
        how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise TrainingError(
            f"process {rank} of {n_processes} ended with {how}, and with it all; what was complete is kept, go on with --resume"
        ) from error


def without_processes(arguments: list[str]) -> list[str]:
    """The arguments without ``--processes N`` or ``--processes=N``."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--processes" and not argument.startswith("--processes="):
            kept.append(argument)
        skip = argument == "--processes"
    return kept
