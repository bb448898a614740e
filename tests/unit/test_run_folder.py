"""Who may write into a folder of a run."""

import shutil
from pathlib import Path

import pytest

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.simulation.run_folder import check_folder

RECORDS = Path(__file__).parents[2] / "benchmarks" / "results" / "runs"


def test_a_run_that_another_process_begins_meanwhile_is_no_foreign_folder(tmp_path, monkeypatch):
    """Replicas of one run start at the same time: files may be there a moment after its record was asked for."""
    (tmp_path / "topology.pdb").write_text("")
    with pytest.raises(SimulationError, match=r"holds files but no run\.json"):
        check_folder(tmp_path, resume=True, overwrite=False)
    record = next(RECORDS.glob("*/run.json"))
    look = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: (shutil.copy(record, folder), look(folder))[1])
    check_folder(tmp_path, resume=True, overwrite=False)
    with pytest.raises(SimulationError, match="holds a run already"):
        check_folder(tmp_path, resume=False, overwrite=False)
