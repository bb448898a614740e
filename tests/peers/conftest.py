"""Tests beside other packages; each belongs to one environment, which MLBENCH_PEER names.

``make peers-test`` runs them.  Everywhere else none of them is collected: what they import is not there.
"""

import os
import sys
import types
from pathlib import Path

import pytest

PEER = os.environ.get("MLBENCH_PEER", "")
collect_ignore = [
    path.name for path in Path(__file__).parent.glob("test_*.py") if not path.name.startswith(f"test_{PEER}_")
]

# Programs that a test starts may run elsewhere.
if "PYTHONPATH" in os.environ:
    os.environ["PYTHONPATH"] = os.pathsep.join(
        map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep))
    )

if PEER == "schnetpack":
    # schnetpack 2.0.4 takes a type variable from where torch has not kept it.
    import torch.utils.data.dataloader

    if not hasattr(torch.utils.data.dataloader, "T_co"):
        torch.utils.data.dataloader.T_co = torch.utils.data.dataloader._T_co  # type: ignore[attr-defined]

if PEER == "deepmd":
    # Its operator library is built for another torch, and asks for MPI; the package runs without.
    stub = types.ModuleType("deepmd.pt.cxx_op")
    stub.ENABLE_CUSTOMIZED_OP = False
    sys.modules["deepmd.pt.cxx_op"] = stub


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peers)
