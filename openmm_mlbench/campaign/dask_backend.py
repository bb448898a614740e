"""Jobs on Dask: a scheduler that is there already, workers of this machine, or jobs of SLURM.

A worker declares its GPUs as the resource ``GPU``; training and simulation ask for one where any worker has one. When a
worker dies, Dask gives its jobs to another, and the lease of a job makes the successor wait until the predecessor's
process is gone too.
"""

import importlib
import ipaddress
import itertools
import queue
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_mlbench.campaign.local import find_gpus, n_cores
from openmm_mlbench.campaign.plan import Cluster
from openmm_mlbench.campaign.scheduling import take_all
from openmm_mlbench.campaign.task import DIED, Outcome, run_task
from openmm_mlbench.errors import CampaignError, DependencyError

LOCALHOST = "127.0.0.1"
_CONNECT_S = 30
# Workers may die under a job so often before Dask gives it back as failed.
_ALLOWED_FAILURES = 3
# Workers that have ended, as jobs of SLURM do at their walltime, are looked for and replaced so often.
_REPLACE_S = 30.0
_LOG_LEVEL = "error"
_INSTALL = "install it with `pip install 'openmm-mlbench[dask]'`"


@dataclass(frozen=True, kw_only=True)
class Network:
    """How scheduler, workers and this process find and trust one another.

    Args:
        listen: address that a scheduler of ours listens on; only this machine reaches the usual one.
        dashboard_port: of a scheduler of ours; 0 takes a free one.
        tls_ca: certificate of the authority that both sides trust; with the next two, all connections are TLS.
        tls_cert: own certificate.
        tls_key: its key.
    """

    listen: str = LOCALHOST
    dashboard_port: int = 8787
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        files = {"--tls-ca": self.tls_ca, "--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        lacking = [name for name, file in files.items() if file is None]
        if 0 < len(lacking) < len(files):
            raise CampaignError(f"TLS needs {', '.join(files)}; {', '.join(lacking)} is missing")
        for name, file in files.items():
            if file is not None and not file.is_file():
                raise CampaignError(f"{name} {file}: no such file; give a PEM file")

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted and both sides show a certificate."""
        return self.tls_ca is not None

    def is_local(self) -> bool:
        """Whether nobody else can reach the scheduler."""
        try:
            return ipaddress.ip_address(self.listen).is_loopback
        except ValueError:
            return self.listen == "localhost"

    def security(self) -> Any:
        """dask.distributed's Security, or None without TLS."""
        if not self.has_tls:
            return None
        from distributed import Security

        certificate, key = str(self.tls_cert), str(self.tls_key)
        return Security(
            tls_ca_file=str(self.tls_ca),
            tls_client_cert=certificate,
            tls_client_key=key,
            tls_scheduler_cert=certificate,
            tls_scheduler_key=key,
            tls_worker_cert=certificate,
            tls_worker_key=key,
            require_encryption=True,
        )

    def warning(self) -> str:
        """One line where others could give us work; empty where they cannot."""
        if self.is_local() or self.has_tls:
            return ""
        return (
            f"the scheduler listens on {self.listen} without TLS: whoever reaches it can run programs as you; "
            "give --tls-ca, --tls-cert and --tls-key"
        )


class DaskBackend:
    """Runs jobs on the workers of a Dask cluster.

    Args:
        client: connected.
        cluster: to close in the end, or None for one of somebody else's.
    """

    def __init__(self, client: Any, cluster: Any | None = None) -> None:
        self.client = client
        self.cluster = cluster
        self._count = itertools.count()
        self._futures: dict[str, Any] = {}
        self._ended: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._had_gpus = False
        self._replaced = time.monotonic()

    def describe(self) -> list[str]:
        """Lines for the user: scheduler, workers, dashboard."""
        workers = self._workers()
        gpus = sum(int(worker.get("resources", {}).get("GPU", 0)) for worker in workers.values())
        count = f"{len(workers)} worker{'' if len(workers) == 1 else 's'}" if workers else "no worker yet"
        return [
            f"Dask scheduler {self.client.scheduler.address}, {count}" + (f", {gpus} GPUs" if gpus else ""),
            f"Dask dashboard {self._dashboard() or 'is not there: it needs bokeh where the scheduler runs'}",
        ]

    def _dashboard(self) -> str:
        try:
            return str(self.client.dashboard_link or "")
        except KeyError:
            return ""

    def _workers(self) -> dict[str, Any]:
        return dict(self.client.scheduler_info(n_workers=-1)["workers"])

    def has_room(self) -> bool:
        """Dask keeps what its workers cannot take yet."""
        return True

    def submit(self, task: dict[str, Any], *, gpu: bool, avoid: str) -> None:
        """Give a job to the scheduler."""
        workers = self._workers()
        self._had_gpus |= any(worker.get("resources", {}).get("GPU") for worker in workers.values())
        options: dict[str, Any] = {}
        if gpu and self._had_gpus:
            options["resources"] = {"GPU": 1}
        others = [address for address in workers if address != avoid]
        if avoid and others:
            options |= {"workers": others, "allow_other_workers": True}
        key = task["key"]
        future = self.client.submit(
            run_on_worker,
            task,
            key=f"{key} #{next(self._count)}",
            pure=False,
            priority=_priority(task),
            **options,
        )
        self._futures[key] = future
        future.add_done_callback(lambda done: self._ended.put((key, done)))

    def finished(self, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Key and Outcome of jobs that have ended."""
        found = take_all(self._ended, timeout_s)
        self._replace_workers()
        outcomes = []
        for key, future in found:
            if self._futures.pop(key, None) is None:
                # Withdrawn.
                continue
            outcomes.append((key, _outcome(future)))
        if not found and self.client.status != "running":
            raise CampaignError(
                f"the connection to the Dask scheduler is lost ({self.client.status}); the same command goes on"
            )
        return outcomes

    def _replace_workers(self) -> None:
        """Start workers of our cluster anew where some have ended: a cluster of a fixed size does not by itself."""
        if self.cluster is not None and time.monotonic() - self._replaced > _REPLACE_S:
            self._replaced = time.monotonic()
            self.cluster.scale(len(self.cluster.worker_spec))

    def withdraw(self, keys: Sequence[str]) -> list[str]:
        """Take back jobs that no worker has begun."""
        known = [key for key in keys if key in self._futures]
        for key in known:
            self._futures.pop(key).cancel()
        return known

    def note(self) -> str:
        """One line where jobs wait for workers; empty where they do not."""
        # A lost connection is said by ``finished``.
        with suppress(OSError):
            if self._futures and not self._workers():
                return f"no Dask worker is connected, {len(self._futures)} jobs wait for one"
        return ""

    def close(self) -> None:
        """Close the connection, and the cluster where it is ours."""
        for future in list(self._futures.values()):
            future.cancel()
        self.client.close(timeout=10)
        if self.cluster is not None:
            self.cluster.close()


def _priority(task: dict[str, Any]) -> int:
    """Short jobs first, so that results appear early."""
    return {"train": 0, "simulate": 0}.get(task["kind"], 10)


def run_on_worker(task: dict[str, Any]) -> dict[str, Any]:
    """What a worker runs."""
    from distributed import get_worker

    return run_task(task, worker=str(get_worker().address))


def _outcome(future: Any) -> dict[str, Any]:
    if future.status == "finished":
        return dict(future.result())
    if future.status == "cancelled":
        reason = "cancelled by the Dask scheduler"
    else:
        error = future.exception()
        reason = " ".join(str(error).split()) or type(error).__name__
    lost = Outcome(state=DIED, reason=f"lost by Dask: {reason}", retry=True)
    return vars(lost) | {"where": "a Dask worker"}


def connect(address: str, network: Network) -> DaskBackend:
    """Use a scheduler that is there.

    Raises:
        DependencyError: dask.distributed is not installed.
        CampaignError: nobody answers at the address.
    """
    _import()
    from distributed import Client

    try:
        return DaskBackend(
            Client(address, security=network.security(), timeout=_CONNECT_S, set_as_default=False)
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise CampaignError(
            f"--scheduler {address}: no Dask scheduler answers ({' '.join(str(error).split())[:200]}); start one with "
            "`dask scheduler`, and give its address"
        ) from error


def start_local(n_workers: int | None, network: Network, *, threads: int = 1) -> DaskBackend:
    """Scheduler and workers on this machine; each worker has a GPU where there are any.

    Raises:
        DependencyError: dask.distributed is not installed.
        CampaignError: it cannot start.
    """
    _import()
    from distributed import Client, Nanny, Scheduler, SpecCluster

    gpus = find_gpus()
    n_workers = n_workers or len(gpus) or max(1, n_cores() // threads)
    security, protocol = network.security(), "tls" if network.has_tls else "tcp"
    workers = {}
    for i in range(n_workers):
        options: dict[str, Any] = {
            "nthreads": 1,
            "memory_limit": 0,
            "protocol": protocol,
            "security": security,
        }
        options |= {"host": LOCALHOST if network.is_local() else None}
        if gpus:
            options |= {"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]}}
        workers[i] = {"cls": Nanny, "options": options}
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": network.listen,
            "port": 0,
            "protocol": protocol,
            "security": security,
            "dashboard": True,
            "dashboard_address": f"{network.listen}:{network.dashboard_port}",
        },
    }
    try:
        cluster = SpecCluster(workers=workers, scheduler=scheduler, security=security, name="openmm-mlbench")
    except (OSError, RuntimeError, ValueError) as error:
        raise CampaignError(f"a Dask cluster cannot start here ({' '.join(str(error).split())})") from error
    client = Client(cluster, set_as_default=False)
    client.wait_for_workers(n_workers, timeout=_CONNECT_S * 4)
    return DaskBackend(client, cluster)


def start_slurm(options: Cluster, network: Network) -> DaskBackend:
    """A scheduler here and workers in jobs of SLURM.

    Raises:
        DependencyError: dask-jobqueue is not installed.
        CampaignError: workers could not reach the scheduler, or SLURM is not here.
    """
    from distributed import Client

    cluster = slurm_cluster(options, network)
    try:
        cluster.scale(jobs=options.workers)
    except (OSError, RuntimeError) as error:
        cluster.close()
        raise CampaignError(
            f"--cluster slurm: no job can be submitted ({' '.join(str(error).split())[:200]}); run it where sbatch works"
        ) from error
    return DaskBackend(Client(cluster, set_as_default=False), cluster)


def slurm_cluster(options: Cluster, network: Network) -> Any:
    """dask-jobqueue's SLURMCluster for a campaign; ``job_script()`` shows what it submits.

    Raises:
        DependencyError: dask-jobqueue is not installed.
        CampaignError: workers could not reach the scheduler.
    """
    _import("dask_jobqueue")
    from dask_jobqueue import SLURMCluster

    if network.is_local() and options.interface is None:
        raise CampaignError(
            "--cluster slurm: workers on other machines cannot reach a scheduler that listens on this one alone; give "
            "--listen ADDRESS, or `interface:` below `cluster:`, and TLS"
        )
    scheduler: dict[str, Any] = {"dashboard_address": f"{LOCALHOST}:{network.dashboard_port}"}
    if options.interface is not None:
        scheduler["interface"] = options.interface
    else:
        scheduler["host"] = network.listen
    extra = ["--nthreads", "1"]
    directives = list(options.directives)
    if options.gpus:
        extra += ["--resources", "GPU=1"]
        directives.insert(0, "--gres=gpu:1")
    try:
        return SLURMCluster(
            queue=options.partition,
            account=options.account,
            cores=options.cores,
            processes=1,
            memory=options.memory,
            walltime=options.walltime,
            interface=options.interface,
            job_script_prologue=list(options.setup),
            job_extra_directives=directives,
            worker_extra_args=extra,
            scheduler_options=scheduler,
            protocol="tls://" if network.has_tls else "tcp://",
            security=network.security(),
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise CampaignError(
            f"--cluster slurm: {' '.join(str(error).split())[:300]}; correct `cluster:`"
        ) from error


def _import(module: str = "distributed") -> None:
    try:
        import dask

        # Read when distributed is imported, here and in its workers: its notes would bury ours.
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
                "logging": {"distributed": _LOG_LEVEL},
            }
        )
        interrupt = signal.getsignal(signal.SIGINT)
        importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f"{module} is needed for this and not installed; {_INSTALL}") from error
    # dask-jobqueue makes Ctrl-C end the process of whoever imports it.
    if signal.getsignal(signal.SIGINT) is not interrupt:
        signal.signal(signal.SIGINT, interrupt or signal.SIG_DFL)
