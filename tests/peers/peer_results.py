"""Keeps what a comparison with another package measured, in benchmarks/results/peers.json."""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from openmm_mlbench.files import write_json

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from record import RESULTS, provenance  # noqa: E402

FILE = RESULTS / "peers.json"


def relative_difference(found: Any, wanted: Any) -> float:
    """Largest difference, relative to the largest wanted value."""
    found, wanted = (np.asarray(values, dtype=np.float64) for values in (found, wanted))
    if found.shape != wanted.shape or not np.isfinite(found).all() or not np.isfinite(wanted).all():
        raise ValueError(f"cannot compare {found.shape} with {wanted.shape}, or not all of it is finite")
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def record_comparison(
    name: str,
    *,
    ours: str,
    theirs: str,
    packages: list[str],
    kind: str,
    systems: str,
    energy: float,
    forces: float,
    dtype: str = "float64",
    tolerance: float = 1e-5,
    note: str = "",
) -> None:
    """Put one comparison into the committed file, in place of an earlier one of this name.

    Args:
        name: of the entry, for example ``schnet-pyg``; one per comparison.
        ours: what of this package was compared, for example ``schnet``.
        theirs: with what, for example ``torch_geometric.nn.models.SchNet``.
        packages: distributions whose versions matter, as on the package index; torch is added.
        kind: ``weights``: the same weights in both; ``import``: their trained model, imported.
        systems: what it was evaluated on, in a few words.
        energy: largest relative difference, see :func:`relative_difference`.
        forces: the same of the forces.
        dtype: in which both were evaluated.
        tolerance: that the test asks for.
        note: what a reader has to know, such as a switch that was set on either side.
    """
    if kind not in {"weights", "import"}:
        raise ValueError(f"kind {kind!r} is neither weights nor import")
    entry = {
        "ours": ours,
        "theirs": theirs,
        "kind": kind,
        "versions": {package: importlib.metadata.version(package) for package in ["torch", *packages]},
        "systems": systems,
        "dtype": dtype,
        "energy": energy,
        "forces": forces,
        "tolerance": tolerance,
        "note": note,
    }
    # A lock file beside the results would be one more file to ignore.
    with filelock.FileLock(str(Path(tempfile.gettempdir()) / "mlbench-peers.json.lock")):
        comparisons = json.loads(FILE.read_text(encoding="utf-8"))["comparisons"] if FILE.is_file() else {}
        comparisons[name] = entry
        origin = {**provenance(), "command": "make peers-test"}
        write_json(FILE, {**origin, "comparisons": dict(sorted(comparisons.items()))})
