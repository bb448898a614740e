"""run.json: what was simulated, with every hash, version and seed."""

import hashlib
import importlib.metadata
import json
import platform as host
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import openmm_mlbench
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import ProtocolError, SimulationError
from openmm_mlbench.files import atomic_path, sha256_file, write_json
from openmm_mlbench.hardware import processor_name
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.protocol_xml import simulation_sha256
from openmm_mlbench.simulation.metadynamics.bias import BiasPlan
from openmm_mlbench.simulation.monitor import Thresholds, WindowCriterion
from openmm_mlbench.simulation.platforms import PlatformChoice
from openmm_mlbench.simulation.run_folder import FORMAT, RUN, read_run, remove_run, remove_temporaries
from openmm_mlbench.simulation.seeds import integrator_seed

FORMAT_VERSION = 1
# What a resumed run shares with the run that it continues ...
_SAME = (
    "protocol",
    "model",
    "seed",
    "start_frames",
    "bonds",
    "equilibrium_A",
    "thresholds",
    "topology_sha256",
    "rdf_windows",
    "metadynamics",
)
# ... and what each session that worked on it notes for itself; the top level is that of the first.
_SESSION = ("platform", "batching", "versions", "git_commit", "host")
_PACKAGES = ("openmm", "openmmtorch", "torch", "numpy")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that was decided before a run starts.

    Args:
        protocol: with the run's seed.
        description: of the model, plain JSON.
        frames: that the start frames are drawn from.
        places: (n_replicas,) of the start frames in there.
        n_steps: of one replica.
        bonds: (n_bonds, 2).
        equilibrium_A: (n_bonds,).
        thresholds: where collapse begins.
        platform: OpenMM platform.
        window: judges windows of frames, or None.
        bias: how metadynamics is carried out, or None.
        batching: who shares a Context and why, see ``batching.plan_batch``.
        campaign: what a campaign calls model, system and seed, or None.
    """

    protocol: Protocol
    description: dict[str, Any]
    frames: Frames
    places: NDArray[np.int64]
    n_steps: int
    bonds: NDArray[np.int64]
    equilibrium_A: NDArray[np.float64]
    thresholds: Thresholds
    platform: PlatformChoice
    window: WindowCriterion | None = None
    bias: BiasPlan | None = None
    batching: dict[str, Any] | None = None
    campaign: dict[str, Any] | None = None

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.places)

    @property
    def length_ps(self) -> float:
        """Length of one replica."""
        return round(self.n_steps * self.protocol.timestep_ps, 9)


def write_run_record(out: Path, plan: Plan, *, resume: bool) -> None:
    """Write run.json and the copies of protocol and structure; the folder must be locked.

    Raises:
        SimulationError: a resumed run differs from what was begun.
    """
    # Through JSON, so that what is compared with an old file looks like one.
    record = json.loads(json.dumps(_run_record(plan)))
    if resume and (out / RUN).is_file():
        former = read_run(out)
        _check_same(out, former, record)
        # Runs of older versions kept their first session only.
        sessions = former.get("sessions") or [_session(former)]
        record["sessions"] = [*sessions, *record["sessions"]]
        record |= {key: former.get(key) for key in _SESSION}
        record["length_ps"] = max(record["length_ps"], former["length_ps"])
    else:
        remove_run(out)
    remove_temporaries(out)
    # First, because it is what marks the folder as ours: a kill before the copies are made is mended here.
    write_json(out / RUN, record)
    if not (out / "topology.pdb").is_file():
        with atomic_path(out / "topology.pdb") as temporary:
            shutil.copyfile(plan.protocol.structure_path, temporary)
    if not (out / "protocol.xml").is_file():
        plan.protocol.write(out / "protocol.xml")


def is_recorded(out: Path, plan: Plan) -> bool:
    """Whether run.json, with its copies, says all that is planned; the folder must be locked.

    Raises:
        SimulationError: what is planned differs from what was begun.
    """
    if not all((out / name).is_file() for name in (RUN, "topology.pdb", "protocol.xml")):
        return False
    former, record = read_run(out), json.loads(json.dumps(_run_record(plan)))
    if former["replicas"] < record["replicas"] or former["length_ps"] < record["length_ps"]:
        return False
    _check_same(out, former, record | {"replicas": former["replicas"]})
    return True


def _session(record: dict[str, Any]) -> dict[str, Any]:
    """What one session notes: where and with which versions it ran, and how long the run should become."""
    # Older versions noted less.
    return {key: record.get(key) for key in (*_SESSION, "length_ps", "replicas")}


def _run_record(plan: Plan) -> dict[str, Any]:
    protocol, frames, seed = plan.protocol, plan.frames, plan.protocol.seed
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "protocol": {
            "name": protocol.name,
            "file": None if protocol.own_file is None else protocol.own_file.name,
            "variant": protocol.variant,
            "sha256": protocol.sha256,
            "system": protocol.system,
            "structure": protocol.structure,
            "ensemble": protocol.ensemble,
            "temperature_K": protocol.temperature_K,
            "timestep_fs": protocol.timestep_fs,
            "frame_interval_fs": protocol.frame_interval_fs,
            "length_ps": protocol.length_ps,
            "replicas": protocol.replicas,
            "observables": list(protocol.observables),
            "constraints": protocol.constraints,
            "stability_criterion": protocol.stability_criterion,
            "stability_threshold_A": protocol.stability_threshold_A,
            "stability_window_ps": protocol.stability_window_ps,
            "stability_pairs": list(protocol.stability_pairs),
            "rdf_pairs": list(protocol.rdf_pairs or protocol.stability_pairs or ("all",)),
            "diffusivity_atoms": protocol.diffusivity_atoms,
            "diffusivity_lag_ps": protocol.diffusivity_lag_ps,
            "diffusivity_start_ps": protocol.diffusivity_start_ps,
            "diffusivity_stride_ps": protocol.diffusivity_stride_ps,
            "diffusivity_min_stable_ps": protocol.diffusivity_min_stable_ps,
            "metadynamics": None if protocol.metadynamics is None else asdict(protocol.metadynamics),
        },
        "model": dict(plan.description),
        "dataset": plan.description.get("dataset"),
        "length_ps": plan.length_ps,
        "replicas": plan.n_replicas,
        "seed": seed,
        "integrator_seeds": [integrator_seed(seed, replica) for replica in range(plan.n_replicas)],
        "start_frames": {
            "dataset": frames.name,
            "sha256": frames.content_hash(),
            "level_of_theory": frames.level_of_theory,
            "n_available": frames.n_frames,
        },
        "start_places": plan.places.tolist(),
        "start_frame_indices": frames.frame_indices[plan.places].tolist(),
        "atomic_numbers": frames.atomic_numbers.tolist(),
        "topology_sha256": sha256_file(protocol.structure_path),
        "bonds": plan.bonds.tolist(),
        "equilibrium_A": plan.equilibrium_A.tolist(),
        "thresholds": asdict(plan.thresholds),
        "rdf_windows": None if plan.window is None else dict(plan.window.description),
        "metadynamics": None if plan.bias is None else asdict(plan.bias),
        "platform": asdict(plan.platform),
        "batching": plan.batching,
        "campaign": plan.campaign,
        "versions": _versions(),
        "git_commit": _git_commit(),
        "host": {"machine": host.machine(), "system": host.platform(), "processor": processor_name()},
    }
    record["sessions"] = [_session(record)]
    return record


def _check_same(out: Path, former: dict[str, Any], record: dict[str, Any]) -> None:
    for key in _SAME:
        # Equal hashes are enough: an older version wrote fewer fields, and observables may have come since.
        if key == "protocol" and record[key]["sha256"] in (former[key]["sha256"], _hash_of_copy(out, former)):
            continue
        if key == "thresholds" and asdict(Thresholds()) | former[key] == record[key]:
            continue
        if former.get(key) != record[key]:
            raise SimulationError(
                f"{out}: was begun with another {key.replace('_', ' ')} "
                f"({_difference(former.get(key), record[key])}); resume with what it was begun with, "
                "or use another folder"
            )
    if former["replicas"] > record["replicas"]:
        raise SimulationError(
            f"{out}: was begun with {former['replicas']} replicas, not {record['replicas']}; "
            "ask for at least as many"
        )


def _hash_of_copy(out: Path, former: dict[str, Any]) -> str | None:
    """Today's hash of the protocol of an older run, which hashed the whole file; None where the copy is not that file."""
    try:
        content = (out / "protocol.xml").read_bytes()
        if hashlib.sha256(content).hexdigest() != former["protocol"]["sha256"]:
            return None
        return simulation_sha256(content)
    except (OSError, ProtocolError):
        return None


def _difference(former: Any, now: Any) -> str:
    if isinstance(former, dict) and isinstance(now, dict):
        for key in now:
            if former.get(key) != now[key]:
                return f"{key}: {_short(former.get(key))} then, {_short(now[key])} now"
    return f"{_short(former)} then, {_short(now)} now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _versions() -> dict[str, str]:
    """Versions of what shapes the numbers; torch and its bridge only where a force has loaded them."""
    found = {"openmm-mlbench": openmm_mlbench.__version__, "python": host.python_version()}
    for name in _PACKAGES:
        if name in sys.modules:
            found[name] = importlib.metadata.version(name)
    return found


def _git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with -dirty after changes; None when installed."""
    root = Path(openmm_mlbench.__file__).resolve().parents[1]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
