"""Walkers that share hills, before they start again together."""

from pathlib import Path

from openmm_mlbench.simulation.checkpoint import read_checkpoints
from openmm_mlbench.simulation.metadynamics.hills import HILLS, cut_back
from openmm_mlbench.simulation.run_folder import locked, read_status


def cut_back_walkers(folders: list[Path], n_steps: int) -> None:
    """Cut each walker's files back to its checkpoint before any of them reads the others' hills.

    Otherwise one would take hills that another is about to take back and deposit again.  A walker that has
    ended deposits nothing again: its hills stay.

    Args:
        folders: of the walkers.
        n_steps: where each is to end.
    """
    for folder in folders:
        status = read_status(folder) if folder.is_dir() else None
        if not folder.is_dir() or (status is not None and status.has_ended(n_steps)):
            continue
        with locked(folder):
            checkpoint = next(iter(read_checkpoints(folder)), None)
            if checkpoint is not None:
                cut_back(folder, checkpoint.offsets.bias_bytes)
            else:
                (folder / HILLS).unlink(missing_ok=True)
