"""What each kind of job does: the functions behind the commands of the same names.

Everything runs in the folder of results, with paths relative to it, so that the folder can be moved as a whole.
"""

import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmm_mlbench.campaign.ledger import Record, hash_of
from openmm_mlbench.campaign.task import Task
from openmm_mlbench.errors import CampaignError, DataError, MLBenchError, ModelError
from openmm_mlbench.files import read_json
from openmm_mlbench.metrics.speed import context_speeds

# Is told how far the work is: done, total, unit, speed.
Tell = Callable[..., None]
HASH_LENGTH = 8
# Files of a replica that do not change once it has ended.
_REPLICA_OUTPUTS = ("status.json", "trajectory.dcd", "log.csv")


class EngineFailure(MLBenchError):  # noqa: N818 - what happened, not a mistake
    """The engine or the model failed; another try, from the checkpoint, may not."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job leaves.

    Args:
        outputs: paths relative to the results, or absolute ones of files from elsewhere.
        facts: numbers for the table and for jobs that build on it.
        digest: hash of what jobs that build on it see; of the outputs if empty.
        stopped: it was asked to stop and can go on.
    """

    outputs: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    stopped: bool = False


def work_on_data(task: Task, _: Record | None, tell: Tell) -> Result:
    """Read the data set, fetching it where that is wanted; its digest is that of the frames."""
    from openmm_mlbench.data.datasets import dataset_path, list_datasets, load_dataset

    name, data = task.settings["dataset"], task.settings["data"]
    try:
        frames = load_dataset(name, path=data)
    except DataError:
        if not task.how["fetch"] or data is not None:
            raise
        _fetch(name, tell)
        frames = load_dataset(name)
    known = any(entry.name == name for entry in list_datasets())
    path = Path(data) if data else dataset_path(name) if known else Path(name)
    return Result(
        outputs=(str(path.resolve()),), facts={"frames": frames.n_frames}, digest=frames.content_hash()
    )


def _fetch(name: str, tell: Tell) -> None:
    from openmm_mlbench.data import fetch
    from openmm_mlbench.data.datasets import find_dataset

    official = find_dataset(name).fetched_from
    if official is None:
        raise DataError(f"data set {name} cannot be fetched; give its file with `data:`")
    fetch.fetch(
        fetch.find_official(official),
        progress=lambda done, total: tell(done=done / 1e6, total=(total or 0) / 1e6, unit="MB"),
    )


def work_on_training(task: Task, former: Record | None, tell: Tell) -> Result:
    """Train, or go on with it."""
    from openmm_mlbench.training.start import Request, new_trainer

    values = task.how["request"]
    # The limit of time may grow; anything else is another training.
    recipe = {key: value for key, value in task.settings["recipe"].items() if key != "max_minutes"}
    name = f"{task.name}-{_short({'recipe': recipe, 'frames': task.settings['frames'], 'data': digests_of(task)})}"
    folder = Path("train") / name
    data = values["data"]
    request = Request(
        **values | {"data": None if data is None else Path(data)},
        gpu_recipe=task.how["gpu_recipe"],
        out=folder,
        resume=(folder / "last.pt").is_file(),
        command=_command(values, folder),
    )
    trainer = new_trainer(request, lambda _: None)
    began_at = -1

    def on_epoch(trainer: Any, row: Mapping[str, Any]) -> None:
        nonlocal began_at
        began_at = row["epoch"]
        tell(
            done=row["epoch"],
            total=trainer.last_epoch,
            unit="epochs",
            note=f"{row['best_force_mae_meV_A']:.1f} meV/A",
        )

    best = trainer.run(resume=request.resume, on_epoch=on_epoch)
    if not best.is_file():
        raise CampaignError(f"{best}: is missing, though training has ended; put it back, or remove {folder}")
    if began_at < 0:
        _check_unaltered(former, (str(best),), folder)
    facts = {
        "epochs": trainer.epoch,
        "minutes": round(trainer.seconds / 60, 2),
        "force_mae_meV_A": float(trainer.best_force_mae),
    }
    return Result(outputs=(str(best), str(folder / "log.csv")), facts={"best": str(best), **facts})


def _command(values: Mapping[str, Any], folder: Path) -> str:
    """What would train the same by hand."""
    words = ["openmm-mlbench", "train", values["model"], values["source"], "-o", str(folder)]
    for key, value in values.items():
        if key not in ("model", "source") and value is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


def work_on_export(task: Task, _: Record | None, tell: Tell) -> Result:
    """Write the archive of what was trained."""
    from openmm_mlbench.workflow import export_checkpoint

    tell(unit="test frames")
    before = _only(task, "train/")
    out = Path("models") / f"{task.name}-{_short({'train': before['digest'], **task.settings})}.pt"
    card = export_checkpoint(
        before["facts"]["best"],
        out,
        data=task.how["data"],
        remove_mean_force=task.settings["remove_mean_force"],
    )
    return Result(
        outputs=(str(out),),
        facts={"archive": str(out), "force_mae_meV_A": card.errors.get("force_mae_meV_A")},
    )


def work_on_check(task: Task, _: Record | None, tell: Tell) -> Result:
    """Prove the claims of the model's card."""
    import torch

    from openmm_mlbench.export.archive import find_archive
    from openmm_mlbench.export.check import check_archive
    from openmm_mlbench.topology import read_structure
    from openmm_mlbench.units import NM_PER_ANGSTROM
    from openmm_mlbench.workflow import archive_structure

    tell(unit="claims")
    torch.set_num_threads(1)
    archive = find_archive(_archive(task))
    if task.how["structure"] is None:
        numbers, positions_nm = archive_structure(archive)
    else:
        topology, positions_A = read_structure(task.how["structure"])
        numbers, positions_nm = topology.atomic_numbers, positions_A * NM_PER_ANGSTROM
    rows = check_archive(archive, numbers, positions_nm)
    wrong = [
        f"{row.name}: {row.measured:.1e}, tolerance {row.tolerance:.0e}" for row in rows if not row.passed
    ]
    if wrong:
        raise ModelError(f"{archive.id}: claims of its card fail ({'; '.join(wrong)})")
    return Result(facts={"claims": len(rows)}, digest="passed")


def work_on_simulation(task: Task, former: Record | None, tell: Tell) -> Result:
    """Run replicas, or go on with them; a collapse is a result."""
    from openmm_mlbench import workflow
    from openmm_mlbench.protocol import load_protocol
    from openmm_mlbench.simulation.run_folder import read_status
    from openmm_mlbench.simulation.runner import RunInterrupted

    settings, how = task.settings, task.how
    members = settings["replicas"]
    folder = run_folder_of(task)
    folders = [folder / f"replica-{member}" for member in members]
    protocol = load_protocol(how["protocol"], how["variant"])
    steps_before = [_steps(status) for status in map(read_status, folders)]
    try:
        statuses = workflow.simulate(
            protocol,
            workflow.find_model(_model(task), how["options"]["driver"]),
            folder,
            data=how["data"],
            note=print,
            display=nullcontext(_Teller(tell, len(members), settings["length_ps"])),
            replicas=max(how["n_replicas"], _recorded_replicas(folder)),
            length_ps=settings["length_ps"],
            seed=settings["seed"],
            resume=True,
            campaign=how["campaign"],
            **_options(how["options"], members, settings["walkers"], begun=any(steps_before)),
        )
    except RunInterrupted:
        return Result(stopped=True)
    failed = [status for status in statuses if status.state == "failed"]
    if failed:
        raise EngineFailure("; ".join(f"replica {status.replica}: {status.message}" for status in failed))
    outputs = tuple(str(path / name) for path in folders for name in _REPLICA_OUTPUTS)
    missing = [path for path in outputs if not Path(path).is_file()]
    if missing:
        raise CampaignError(
            f"{missing[0]}: is missing, though the replica has ended; put it back, or remove {Path(missing[0]).parent}"
        )
    if steps_before == [status.step for status in statuses]:
        _check_unaltered(former, outputs, folder)
    speeds = [
        speed
        for speed in context_speeds(
            [status.steps_per_second for status in statuses], [status.batch for status in statuses]
        )
        if speed
    ]
    return Result(
        outputs=outputs,
        facts={
            "folder": str(folder),
            "states": [status.state for status in statuses],
            "time_ps": [status.time_ps for status in statuses],
            "reasons": [status.message for status in statuses if status.state == "unstable"],
            "steps_per_second": sum(speeds) / len(speeds) if speeds else None,
        },
    )


def _options(options: Mapping[str, Any], members: list[int], walkers: str, *, begun: bool) -> dict[str, Any]:
    """Of the runner."""
    given = {key: options[key] for key in ("platform", "precision", "threads", "metadynamics")}
    if walkers.endswith("shared"):
        return given | {"walkers": "shared", "jobs": len(members)}
    # A number was asked for; whoever has begun goes on as it began.
    batch = "on" if options["batch_replicas"].isdecimal() and not begun else "auto"
    return given | {"only": members, "batch_replicas": batch if len(members) > 1 else "off"}


class _Teller:
    """Adds up what the replicas of one job say."""

    def __init__(self, tell: Tell, n_replicas: int, length_ps: float) -> None:
        self.tell = tell
        self.total_ps = n_replicas * length_ps
        self.length_ps = length_ps
        self.latest: dict[int, Any] = {}

    def __call__(self, update: Any) -> None:
        self.latest[update.replica] = update
        done = [
            self.length_ps if item.state in ("finished", "unstable") else item.time_ps
            for item in self.latest.values()
        ]
        speeds = [item.steps_per_second for item in self.latest.values() if item.steps_per_second]
        self.tell(done=sum(done), total=self.total_ps, unit="ps", speed=sum(speeds) if speeds else None)


def run_folder_of(task: Task) -> Path:
    """Where a run lies: another model, protocol or seed has another folder, a longer or larger run the same."""
    settings = task.settings
    keys = ("model", "protocol", "seed", "walkers", "metadynamics", "frames")
    kept = {key: settings[key] for key in keys if key in settings}
    return Path("runs") / f"{task.how['name']}-{_short(kept | {'before': digests_of(task)})}"


def _recorded_replicas(folder: Path) -> int:
    try:
        return int(read_json(folder / "run.json")["replicas"])
    except (OSError, MLBenchError, KeyError, TypeError, ValueError):
        # Whatever is wrong with it, the runner says it better.
        return 0


def _steps(status: Any) -> int | None:
    return None if status is None else status.step


def work_on_analysis(task: Task, _: Record | None, tell: Tell) -> Result:
    """Measure a run."""
    from openmm_mlbench.workflow import measure

    tell(unit="observables")
    folders = {item["facts"]["folder"] for item in task.before.values()}
    folder = Path(folders.pop())
    metrics = measure(folder, data=task.how["data"], mode=task.settings["mode"])
    results = [result for measurement in metrics["measurements"] for result in measurement["results"]]
    wanted = ("force_mae", "stability")
    return Result(
        outputs=(str(folder / "metrics.json"),),
        facts={
            "folder": str(folder),
            "results": {
                result["name"]: [result["value"], result["stderr"], result["unit"], result["status"]]
                for result in reversed(results)
                if result["name"] in wanted
            },
        },
    )


def work_on_report(task: Task, _: Record | None, tell: Tell) -> Result:
    """The page about all runs of the campaign."""
    from openmm_mlbench.report.page import build_report

    tell(unit="runs")
    folders = [item["facts"]["folder"] for item in task.before.values()]
    page = build_report(folders, Path("report.html"))
    return Result(outputs=(str(page),))


WORK: dict[str, Callable[[Task, Record | None, Tell], Result]] = {
    "data": work_on_data,
    "train": work_on_training,
    "export": work_on_export,
    "check": work_on_check,
    "simulate": work_on_simulation,
    "analyze": work_on_analysis,
    "report": work_on_report,
}


def _check_unaltered(former: Record | None, outputs: tuple[str, ...], folder: Path) -> None:
    """Nothing was left to do: then the files must be those that the ledger knows.

    Raises:
        CampaignError: a file has changed since.
    """
    known = {} if former is None else former.outputs
    for path in outputs:
        if path in known and not known[path].is_at(Path(path)):
            raise CampaignError(
                f"{path}: is not what was written (sha256 {known[path].sha256[:12]} then); put it back, or remove "
                f"{folder} to do it again"
            )


def digests_of(task: Task) -> dict[str, str]:
    """Of the jobs whose results it builds on."""
    return {key: item["digest"] for key, item in task.before.items() if not key.startswith("check/")}


def _only(task: Task, prefix: str) -> dict[str, Any]:
    return next(item for key, item in task.before.items() if key.startswith(prefix))


def _archive(task: Task) -> str:
    given = task.settings.get("archive")
    return str(given or _only(task, "export/")["facts"]["archive"])


def _model(task: Task) -> str:
    model = task.settings["model"]
    found = model.get("archive") or model.get("reference_potential")
    return str(found or _only(task, "export/")["facts"]["archive"])


def _short(value: Any) -> str:
    return hash_of(value)[:HASH_LENGTH]
