"""The runs that a report is about: found, read, named, and judged by how much of their protocol they cover."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmm_mlbench import paper
from openmm_mlbench.errors import MLBenchError, ReportError
from openmm_mlbench.files import read_json
from openmm_mlbench.results import METRICS_VERSION

METRICS_FILE, RUN_FILE = "metrics.json", "run.json"
_RUN_KEYS = ("model", "dataset", "protocol", "length_ps", "threshold_A", "replicas")
# Below a folder of results: campaign / system / model / run.
_MAX_DEPTH = 5
# How much of its protocol a run covers, in the order of a leaderboard.
FULL, SHORT, VARIANT, CONTROL, GAP = "full", "short", "variant", "control", "gap"
LEVEL_WORDS = {
    FULL: "full protocol",
    SHORT: "shorter than the protocol",
    VARIANT: "variant of the protocol",
    CONTROL: "control",
    GAP: "not run",
}


@dataclass(kw_only=True)
class Collection:
    """What a report has to show.

    Args:
        runs: contents of metrics.json; ``run`` has ``anchor``, ``label`` and ``place`` besides.
        left_out: folders that were found and cannot be shown, each with why and what to do.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def collect(sources: Sequence[str | os.PathLike[str]]) -> Collection:
    """Read run folders, metrics.json files, and every run in folders of runs.

    A run that was named itself must be readable; of a folder of runs those that are not are listed.

    Raises:
        ReportError: nothing to show, a named run without metrics, or a damaged file.
    """
    if not sources:
        raise ReportError("no runs to report on; give run folders or metrics.json files")
    found = Collection()
    seen: set[Path] = set()
    for source in map(Path, sources):
        if not _is_folder_of_runs(source):
            _add(found, seen, source)
            continue
        folders = _run_folders(source)
        if not folders:
            raise ReportError(f"{source}: holds no run; give a folder that `openmm-mlbench simulate` wrote")
        for folder in folders:
            try:
                _add(found, seen, folder)
            except ReportError as error:
                found.left_out.append((str(folder), str(error).removeprefix(f"{folder}: ")))
    if not found.runs:
        raise ReportError(found.left_out[0][0] + ": " + found.left_out[0][1])
    _name(found.runs)
    return found


def _is_folder_of_runs(source: Path) -> bool:
    return source.is_dir() and not any((source / name).is_file() for name in (METRICS_FILE, RUN_FILE))


def _run_folders(root: Path) -> list[Path]:
    found = []
    for folder, below, files in os.walk(root):
        below.sort()
        path = Path(folder)
        if METRICS_FILE in files or RUN_FILE in files:
            found.append(path)
            below.clear()
        elif len(path.relative_to(root).parts) >= _MAX_DEPTH:
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return found


def _add(found: Collection, seen: set[Path], source: Path) -> None:
    metrics = read_metrics(source)
    place = source if source.is_dir() else source.parent
    if place.resolve() in seen:
        return
    seen.add(place.resolve())
    metrics["run"] = dict(metrics["run"]) | {"place": str(place)}
    found.runs.append(metrics)


def read_metrics(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The metrics of a run, checked as far as the page needs them.

    Raises:
        ReportError: the file is missing, damaged or of another shape.
    """
    path = Path(source)
    if not path.exists():
        raise ReportError(f"{path}: no such folder or file; give a run folder, or its {METRICS_FILE}")
    if path.is_dir() and not (path / METRICS_FILE).is_file():
        if not (path / RUN_FILE).is_file():
            raise ReportError(f"{path}: holds no run; give a folder that `openmm-mlbench simulate` wrote")
        raise ReportError(
            f"{path}: was not analyzed; run `openmm-mlbench analyze {shlex.quote(str(path))}` first"
        )
    path = path / METRICS_FILE if path.is_dir() else path
    try:
        metrics = read_json(path)
    except MLBenchError as error:
        raise ReportError(str(error)) from error
    version = metrics.get("format_version") if isinstance(metrics, dict) else None
    if isinstance(metrics, dict) and "run" in metrics and version != METRICS_VERSION:
        raise ReportError(
            f"{path}: written by another version (format {version}, wanted {METRICS_VERSION}); "
            f"run `openmm-mlbench analyze {shlex.quote(str(path.parent))}` again"
        )
    run = metrics.get("run") if isinstance(metrics, dict) else None
    lacking = [key for key in _RUN_KEYS if key not in run] if isinstance(run, dict) else ["run"]
    if lacking or not isinstance(metrics.get("measurements"), list):
        raise ReportError(
            f"{path}: not the metrics of a run (lacks {', '.join(lacking) or 'measurements'}); analyze the run again"
        )
    return dict(metrics)


def _name(runs: list[dict[str, Any]]) -> None:
    """Give each run a label that no other has, and an anchor of letters, digits and hyphens."""
    labels = [_label(metrics["run"]) for metrics in runs]
    for added in (_variant_word, _length_word, _seed_word):
        if added is _seed_word:
            for metrics, label in zip(runs, labels, strict=True):
                metrics["run"]["entry_label"] = label
        for places in _alike(labels, runs):
            words = [added(runs[place]["run"]) for place in places]
            # A word that all have tells nobody apart.
            if len(set(words)) > 1:
                for place, word in zip(places, words, strict=True):
                    labels[place] = ", ".join(filter(None, (labels[place], word)))
    for places in _alike(labels, runs):
        for place in places:
            folder = runs[place]["run"].get("folder") or runs[place]["run"].get("place")
            labels[place] += f" ({folder})" if folder else ""
    anchors: set[str] = set()
    for metrics, label in zip(runs, labels, strict=True):
        run = metrics["run"]
        run["label"] = label
        model = f"{run['dataset']}-{run['model']}" if "/" not in str(run["model"]) else str(run["model"])
        name = "-".join(filter(None, (model, _variant_word(run))))
        anchor = base = "run-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x")
        number = 1
        while anchor in anchors:
            number += 1
            anchor = f"{base}-{number}"
        anchors.add(anchor)
        run["anchor"] = anchor


def _alike(labels: list[str], runs: list[dict[str, Any]]) -> list[list[int]]:
    """Places of runs of one data set that have the same label, group by group."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, (label, metrics) in enumerate(zip(labels, runs, strict=True)):
        groups.setdefault((label, metrics["run"]["dataset"]), []).append(place)
    return [places for places in groups.values() if len(places) > 1]


def _label(run: dict[str, Any]) -> str:
    """The architecture of a shipped model, whose data set figure or table name; a campaign's own name; else as given."""
    known = paper.MODELS.get(run.get("architecture") or "")
    model, name = str(run["model"]), str(_campaign(run).get("model") or "")
    if known and (model == f"{run['dataset']}/{run['architecture']}" or name == run["architecture"]):
        return known[0]
    if known and name:
        return f"{known[0]}, {name}"
    return name or model


def _campaign(run: dict[str, Any]) -> dict[str, Any]:
    """What a campaign calls the model, system and seed; empty for a run by itself."""
    return (run.get("provenance") or {}).get("campaign") or {}


def _seed_word(run: dict[str, Any]) -> str:
    """The seed that a campaign trained and simulated with."""
    seed = seed_of(run)
    return "" if seed is None else f"seed {seed}"


def seed_of(run: dict[str, Any]) -> int | None:
    """The seed that a campaign trained and simulated with; None for a run by itself."""
    seed = _campaign(run).get("seed")
    return None if seed is None else int(seed)


def entry_of(run: dict[str, Any]) -> tuple[str, str]:
    """Data set and model, by which runs are of one thing: seeds of a campaign's model are."""
    campaign = _campaign(run)
    of_campaign = f"{campaign.get('campaign')}/{campaign['model']}" if campaign.get("model") else ""
    return str(run["dataset"]), of_campaign or str(run["model"])


def _variant_word(run: dict[str, Any]) -> str:
    """What sets the protocol apart from the system's own one."""
    system, protocol = str(run.get("system") or ""), str(run["protocol"])
    return protocol.removeprefix(system).strip("-") if system else ""


def _length_word(run: dict[str, Any]) -> str:
    """How many replicas were simulated, and how long each was asked to be."""
    return f"{len(run['replicas'])} \N{MULTIPLICATION SIGN} {run['length_ps']:g} ps"


def model_key(run: dict[str, Any]) -> str:
    """What decides colour and filter: the architecture, or the model where it has none."""
    return str(run.get("architecture") or run["model"])


def is_own_structure(run: dict[str, Any]) -> bool:
    """Whether a structure of somebody's own was simulated instead of a system of the package."""
    return bool(((run.get("provenance") or {}).get("protocol") or {}).get("structure"))


def planned_replicas(run: dict[str, Any]) -> int:
    """How many replicas the protocol asks for."""
    protocol = (run.get("provenance") or {}).get("protocol") or {}
    return int(protocol.get("replicas") or run.get("n_replicas") or len(run["replicas"]))


def planned_length_ps(run: dict[str, Any]) -> float:
    """How long the protocol asks each replica to be, ps."""
    return float(run.get("full_length_ps") or run["length_ps"])


def survivors(run: dict[str, Any]) -> int:
    """Replicas whose end nobody has seen: they outlived their simulation, or it is not over."""
    return sum(not replica.get("broke") for replica in run["replicas"])


def completeness(run: dict[str, Any]) -> str:
    """``full``, ``short`` (fewer or shorter replicas than the protocol's), ``variant`` or ``control``.

    A replica that broke is complete, however short it was asked to be.
    """
    if is_reference_potential(run):
        return CONTROL
    length = planned_length_ps(run) * (1 - 1e-6)
    done = [replica for replica in run["replicas"] if replica.get("broke") or replica["time_ps"] >= length]
    if len(done) < len(run["replicas"]) or len(done) < planned_replicas(run):
        return SHORT
    return VARIANT if _variant_word(run) and not is_own_structure(run) else FULL


def is_reference_potential(run: dict[str, Any]) -> bool:
    """Whether the potential behind a data set was run in place of a model."""
    model = (run.get("provenance") or {}).get("model") or {}
    return not run.get("architecture") and not model.get("archive_sha256") and bool(model.get("source"))


def own_protocol_runs(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Models run by their system's own protocol: no variants, controls or structures of one's own."""
    return [
        metrics
        for metrics in runs
        if not _variant_word(metrics["run"])
        and not is_own_structure(metrics["run"])
        and completeness(metrics["run"]) != CONTROL
    ]


def main_runs(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each model, and seed, on each data set the run that says most: by its system's own protocol, the longest one."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for metrics in own_protocol_runs(runs):
        key = _model_and_data(metrics)
        if key not in best or simulated_ps(metrics["run"]) > simulated_ps(best[key]["run"]):
            best[key] = metrics
    return list(best.values())


def drawn_together(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs for one figure of many models: each model's main run, all of a model that has none, and controls."""
    mains = main_runs(runs)
    chosen, have = set(map(id, mains)), set(map(_model_and_data, mains))
    return [metrics for metrics in runs if id(metrics) in chosen or _model_and_data(metrics) not in have]


def _model_and_data(metrics: dict[str, Any]) -> tuple[Any, ...]:
    return (*entry_of(metrics["run"]), seed_of(metrics["run"]))


def simulated_ps(run: dict[str, Any]) -> float:
    """Of all replicas together."""
    return float(sum(replica["time_ps"] for replica in run["replicas"]))
