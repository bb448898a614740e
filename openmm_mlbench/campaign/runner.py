"""``openmm-mlbench run``: a campaign from its file to its report."""

import dataclasses
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_mlbench.campaign.display import CampaignDisplay, estimate_text
from openmm_mlbench.campaign.jobs import REPORT, make_matrix
from openmm_mlbench.campaign.lease import DEFAULT_TTL_S, HeldError, Lease
from openmm_mlbench.campaign.ledger import DONE, FAILED, FOLDER, STOPPED
from openmm_mlbench.campaign.local import LocalBackend, find_gpus
from openmm_mlbench.campaign.plan import Campaign, read_campaign
from openmm_mlbench.campaign.scheduling import BLOCKED, Schedule
from openmm_mlbench.campaign.task import LEASES, LOGS, STOP_FILE, campaign_lease
from openmm_mlbench.errors import CampaignError
from openmm_mlbench.files import atomic_path

CLUSTERS = ("local", "slurm")
CAMPAIGN_FILE = "campaign.yaml"
# What a folder of results may hold before a campaign is begun in it.
_OWN = {CAMPAIGN_FILE, FOLDER, LOGS, LEASES, "train", "models", "runs", "report.html"}


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a campaign runs.

    Args:
        workers: jobs at a time, or workers of a cluster; what the machine has if None.
        scheduler: address of a Dask scheduler.
        cluster: ``local`` or ``slurm``: a Dask cluster of our own.
        network: a ``dask_backend.Network``; the usual one if None.
    """

    workers: int | None = None
    scheduler: str | None = None
    cluster: str | None = None
    network: Any = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.cluster is not None:
            raise CampaignError("--scheduler and --cluster exclude each other; choose one")
        if self.cluster is not None and self.cluster not in CLUSTERS:
            raise CampaignError(f"--cluster {self.cluster}: is not one of {', '.join(CLUSTERS)}")
        if self.workers is not None and self.workers < 1:
            raise CampaignError(f"--workers is {self.workers}; at least 1 is needed")


def plan_campaign(
    file: str | Path, results: str | Path, where: Where | None = None
) -> tuple[Campaign, Schedule]:
    """Read a campaign and find what is done of it; nothing runs and nothing is written.

    Raises:
        CampaignError: the file is not valid, or the folder holds something else.
    """
    campaign, root = read_campaign(file), Path(results)
    _check_folder(root)
    matrix = make_matrix(campaign, gpus=_has_gpus(campaign, where or Where()))
    schedule = Schedule(matrix=matrix, root=root, retries=campaign.retries)
    schedule.survey()
    return campaign, schedule


def _has_gpus(campaign: Campaign, where: Where) -> bool:
    """Whether simulations run on GPUs, as far as that can be known before anything is started."""
    if campaign.gpu != "auto":
        return campaign.gpu == "yes"
    if where.scheduler is not None:
        return False
    return campaign.cluster.gpus > 0 if where.cluster == "slurm" else bool(find_gpus())


def run_campaign(
    file: str | Path,
    results: str | Path,
    where: Where | None = None,
    *,
    say: Callable[[str], None] = print,
    ttl_s: float = DEFAULT_TTL_S,
) -> Schedule:
    """Run everything of a campaign that is not done.

    Args:
        file: YAML.
        results: folder of results, new or of a campaign.
        where: it runs; in processes of this machine if None.
        say: receives lines about where it runs and what follows.
        ttl_s: a job whose process was not heard of for so long is taken over, where its machine cannot be asked.

    Returns:
        All jobs and where they stand.

    Raises:
        CampaignError: the file is not valid, the folder holds something else, another campaign runs there, or a
            cluster cannot be reached.
        CampaignStopped: Ctrl-C or SIGTERM; the same command goes on.
    """
    where = where or Where()
    campaign, root = read_campaign(file), Path(results)
    _check_folder(root)
    matrix = make_matrix(campaign, gpus=_has_gpus(campaign, where))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CampaignError(f"{root}: cannot be made ({error.strerror}); choose another folder") from error
    stopped = threading.Event()
    lost = threading.Event()
    lease = Lease(campaign_lease(root), ttl_s=ttl_s, on_lost=lost.set)
    try:
        lease.acquire(
            note=lambda text: say(f"{root}: a campaign was running there, {text} to show up or not")
        )
    except HeldError as error:
        raise CampaignError(
            f"{root}: another campaign is running there ({error}); wait for it, or choose another folder"
        ) from error
    with lease:
        (root / LEASES / STOP_FILE).unlink(missing_ok=True)
        with atomic_path(root / CAMPAIGN_FILE) as temporary:
            shutil.copyfile(file, temporary)
        schedule = Schedule(
            matrix=matrix, root=root, retries=campaign.retries, ttl_s=ttl_s, owner=lease.owner
        )
        schedule.survey()
        if any(state.state not in (DONE, BLOCKED) for state in schedule.states.values()):
            _run(campaign, schedule, where, say, stopped, lost)
    if any(state.state == STOPPED for state in schedule.states.values()):
        n_done = sum(state.state == DONE for state in schedule.states.values())
        raise CampaignStopped(
            f"{root}: stopped with {n_done} of {len(schedule.states)} jobs done; the same command goes on",
            schedule,
        )
    return schedule


class CampaignStopped(CampaignError):  # noqa: N818 - an interruption is no fault
    """The user or the queue ended the campaign; ``schedule`` says how far it came."""

    def __init__(self, message: str, schedule: Schedule) -> None:
        super().__init__(message)
        self.schedule = schedule


def _run(
    campaign: Campaign,
    schedule: Schedule,
    where: Where,
    say: Callable[[str], None],
    stopped: threading.Event,
    lost: threading.Event,
) -> None:
    backend = make_backend(campaign, where, say)
    for line in backend.describe():
        say(line)
    workers: Any = where.workers or getattr(backend, "workers", 1)
    estimate = estimate_text(schedule, workers)
    if estimate:
        say(estimate)
    display = CampaignDisplay(schedule, campaign.name)

    def refresh() -> None:
        if lost.is_set():
            raise CampaignError(
                f"{schedule.root}: another campaign has taken over there, because this one was not heard of"
            )
        display.refresh()

    schedule.tell, schedule.refresh = display.tell, refresh
    try:
        with _stop_on_signals(stopped), display:
            schedule.run(backend, stopped)
    except BaseException:
        # Whatever ended us: what still runs elsewhere shall not go on unwatched, unless a successor watches it.
        if not lost.is_set():
            schedule.ask_to_stop()
        raise
    finally:
        backend.close()


def make_backend(campaign: Campaign, where: Where, say: Callable[[str], None]) -> Any:
    """What runs the jobs."""
    threads = max(campaign.simulate.threads, campaign.train.threads)
    if where.scheduler is None and where.cluster is None:
        return LocalBackend(where.workers, threads=threads)
    from openmm_mlbench.campaign import dask_backend

    network = where.network or dask_backend.Network()
    if where.scheduler is not None:
        return dask_backend.connect(where.scheduler, network)
    if network.warning():
        say(f"warning: {network.warning()}")
    if where.cluster == "slurm":
        options = campaign.cluster
        options = dataclasses.replace(options, workers=where.workers or options.workers)
        return dask_backend.start_slurm(options, network)
    return dask_backend.start_local(where.workers, network, threads=threads)


def _check_folder(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise CampaignError(f"{root}: is a file; give a folder for the results")
    if root.is_dir() and not (root / CAMPAIGN_FILE).is_file():
        others = sorted(path.name for path in root.iterdir() if path.name not in _OWN)
        if others:
            raise CampaignError(f"{root}: holds {others[0]} but no campaign; give a new or empty folder")


@contextmanager
def _stop_on_signals(stopped: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the jobs to stop; the second acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def request(*_: Any) -> None:
        stopped.set()
        restore()

    for number in former:
        signal.signal(number, request)
    try:
        yield
    finally:
        restore()


def is_complete(schedule: Schedule) -> bool:
    """Whether every job is done."""
    return all(state.state == DONE for state in schedule.states.values())


def report_path(schedule: Schedule) -> Path | None:
    """The page, where there is one."""
    record = schedule.states[REPORT].record
    return None if record is None or record.state == FAILED else schedule.root / "report.html"
