"""One training in several processes: torch's DistributedDataParallel, started by torchrun.

Every process holds all weights and takes its share of each batch; gradients are
averaged over the processes, so that a step is that of one process with the whole
batch.  Process 0 writes the files; what decides how a run goes on (losses,
errors, time) is the same number in all of them.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import TrainingError

# A process that neither answers nor ends is given up after this time.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes of a training.

    Args:
        rank: number of this one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, places: Tensor) -> Tensor:
        """This process's part of a batch: every size-th place, beginning with the rank-th."""
        return places if self.size == 1 else places[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Sum of the values of all processes, the same in each of them."""
        if self.size > 1:
            values = values.clone()
            with _contact():
                torch.distributed.all_reduce(values)
        return values

    def of_first(self, value: Any) -> Any:
        """What process 0 has: plain values and tensors on the processor."""
        if self.size == 1:
            return value
        holder = [value]
        with _contact():
            torch.distributed.broadcast_object_list(holder, src=0)
        return holder[0]

    def wrap(self, module: nn.Module, some_unused: bool) -> nn.Module:
        """A module whose forward returns a loss, with gradients averaged over the processes.

        Args:
            module: the same in all processes.
            some_unused: whether the loss does not reach all parameters, a last bias where forces alone count.
        """
        if self.size == 1:
            return module
        with _contact():
            return nn.parallel.DistributedDataParallel(module, find_unused_parameters=some_unused)


ALONE = Group()


class ContactLostError(TrainingError):
    """Another process of a training has ended."""


@contextmanager
def _contact() -> Iterator[None]:
    """What the backends raise when another process has gone, as one line; other errors stay what they are."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).lower()
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in told and "nccl" not in told:
            raise
        raise ContactLostError(
            "another process of this training ended; what was complete is kept, start all of them again with --resume"
        ) from error


@contextmanager
def contact(group: Group) -> Iterator[None]:
    """Steps of several processes, in which any communication can fail; one process is left alone."""
    if group.size == 1:
        yield
        return
    with _contact(), warnings.catch_warnings():
        # Of a layer with one output, whose gradient can be laid out in two ways that are the same.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield


def world_size() -> int:
    """Number of processes that torchrun started this one with; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def joined(device: str) -> Iterator[tuple[Group, str]]:
    """This process's place among those of torchrun, and its device.

    Args:
        device: ``cpu``, or ``cuda``: each process of a node takes the GPU of its number there.

    Raises:
        TrainingError: there are fewer GPUs than processes, or the processes do not find each other.
    """
    size = world_size()
    if size == 1:
        yield ALONE, device
        return
    cuda = device.startswith("cuda")
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"{local + 1} or more processes on a node with {torch.cuda.device_count()} GPUs; start one for each GPU"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    try:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {size} processes did not find each other ({str(error).splitlines()[0]}); start them with torchrun"
        ) from error
    try:
        yield Group(rank=torch.distributed.get_rank(), size=size), device
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.distributed.destroy_process_group()


def synchronised(network: nn.Module, group: Group) -> nn.Module:
    """Batch normalisation over the whole batch on GPUs; on processors torch has none, and each share has its own."""
    if group.size > 1 and next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network
