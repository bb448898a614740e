"""Dask as campaigns use it: who can reach the scheduler, TLS, what SLURM is given, GPUs as resources."""

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import dask
import pytest

from openmm_mlbench.campaign import dask_backend
from openmm_mlbench.campaign.dask_backend import (
    LOCALHOST,
    DaskBackend,
    Network,
    connect,
    slurm_cluster,
    start_local,
    start_slurm,
)
from openmm_mlbench.campaign.lease import Lease
from openmm_mlbench.campaign.local import LocalBackend, find_gpus
from openmm_mlbench.campaign.plan import Cluster
from openmm_mlbench.campaign.runner import Where
from openmm_mlbench.campaign.task import Task, campaign_lease, close_idle, run_task
from openmm_mlbench.errors import CampaignError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority and a certificate of it, and one of nobody."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")

    def run(*words):
        subprocess.run([openssl, *words], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    run("req", *key[:3], "-keyout", "key.pem", "-out", "cert.csr", "-subj", "/CN=cluster")
    run(
        "x509",
        "-req",
        "-in",
        "cert.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "cert.pem",
    )
    run("req", "-x509", *key, "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=somebody else")
    return folder


def test_the_usual_scheduler_is_for_this_machine_alone():
    backend = start_local(1, Network(dashboard_port=0))
    try:
        address = backend.client.scheduler.address
        assert address.startswith(f"tcp://{LOCALHOST}:")
        listening = listening_addresses(int(address.rpartition(":")[2]))
        assert listening == {LOCALHOST}
        lines = backend.describe()
        assert lines[0] == f"Dask scheduler {address}, 1 worker"
        dashboard = lines[1].removeprefix("Dask dashboard http://").removesuffix("/status")
        host, port = dashboard.split(":")
        assert host == LOCALHOST
        assert listening_addresses(int(port)) == {LOCALHOST}
        # Workers too.
        (worker,) = backend.client.scheduler_info(n_workers=-1)["workers"]
        assert listening_addresses(int(worker.rpartition(":")[2])) == {LOCALHOST}
    finally:
        backend.close()


def listening_addresses(port):
    """Local addresses on which anybody listens on this port, from the kernel's own table."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        host, number = address.split(":")
        if state == "0A" and int(number, 16) == port:
            found.add(socket.inet_ntoa(bytes.fromhex(host)[::-1]))
    for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.split(":")[1], 16) == port:
            found.add("::")
    return found


def test_tls_lets_in_who_has_a_certificate_and_nobody_else(certificates):
    network = Network(
        dashboard_port=0,
        tls_ca=certificates / "ca.pem",
        tls_cert=certificates / "cert.pem",
        tls_key=certificates / "key.pem",
    )
    backend = start_local(1, network)
    try:
        address = backend.client.scheduler.address
        assert address.startswith("tls://")
        (worker,) = backend.client.scheduler_info(n_workers=-1)["workers"]
        assert worker.startswith("tls://")
        other = connect(address, network)
        assert other.client.submit(sum, [1, 2]).result(timeout=300) == 3
        other.close()
        stranger = Network(
            tls_ca=certificates / "ca.pem",
            tls_cert=certificates / "other.pem",
            tls_key=certificates / "other.key",
        )
        with pytest.raises(CampaignError, match="no Dask scheduler answers"):
            connect(address, stranger)
    finally:
        backend.close()


def test_what_listens_elsewhere_without_tls_is_said(certificates):
    assert Network().warning() == ""
    assert Network(listen="localhost").warning() == ""
    assert "listens on 0.0.0.0 without TLS" in Network(listen="0.0.0.0").warning()
    files = {
        "tls_ca": certificates / "ca.pem",
        "tls_cert": certificates / "cert.pem",
        "tls_key": certificates / "key.pem",
    }
    assert Network(listen="0.0.0.0", **files).warning() == ""
    with pytest.raises(CampaignError, match=r"--tls-key is missing"):
        Network(tls_ca=files["tls_ca"], tls_cert=files["tls_cert"])
    with pytest.raises(CampaignError, match=r"--tls-ca .*absent: no such file"):
        Network(**files | {"tls_ca": certificates / "absent"})


def test_the_job_that_slurm_is_given(certificates):
    options = Cluster(
        workers=3,
        cores=4,
        memory="16 GB",
        walltime="04:30:00",
        gpus=1,
        partition="gpu",
        account="chem",
        interface="lo",
        setup=("module load cuda", "source ~/env/bin/activate"),
        directives=("--constraint=a100",),
    )
    network = Network(
        dashboard_port=0,
        tls_ca=certificates / "ca.pem",
        tls_cert=certificates / "cert.pem",
        tls_key=certificates / "key.pem",
    )
    cluster = slurm_cluster(options, network)
    try:
        lines = cluster.job_script().splitlines()
    finally:
        cluster.close()
    for wanted in (
        "#SBATCH -p gpu",
        "#SBATCH -A chem",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=15G",
        "#SBATCH -t 04:30:00",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --constraint=a100",
        "module load cuda",
    ):
        assert wanted in lines
    command = lines[-1]
    assert "distributed.cli.dask_worker tls://127.0.0.1:" in command
    assert "--resources GPU=1" in command
    # dask-jobqueue gives a worker as many threads as cores; the later option counts.
    assert command.rindex("--nthreads 1") > command.index("--nthreads 4")
    assert f"--tls-ca-file {certificates / 'ca.pem'}" in command
    assert "--interface lo" in command


SBATCH = """\
#!/bin/sh
# As SLURM's, for one job at a time: runs the script in the background and says its number.
for script; do :; done
echo x >> {folder}/submitted
# Who submitted it removes the script as soon as it was accepted.
cp "$script" {folder}/script
setsid bash {folder}/script > {folder}/log 2>&1 < /dev/null &
echo $! > {folder}/pid
echo Submitted batch job $(wc -l < {folder}/submitted)
"""


def test_a_worker_that_met_its_walltime_is_replaced_by_another_job(tmp_path, monkeypatch):
    for name, text in (("sbatch", SBATCH.format(folder=tmp_path)), ("scancel", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(dask_backend, "_REPLACE_S", 0.5)
    options = Cluster(workers=1, cores=1, memory="4 GB", walltime="00:10:00", interface="lo")
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        backend = start_slurm(options, Network(dashboard_port=0))
        try:
            backend.client.wait_for_workers(1, timeout=120)
            assert backend.note() == ""
            os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            backend.submit(data_task(tmp_path, "data/a"), gpu=False, avoid="")
            ended = []
            notes = set()
            end = time.monotonic() + 120
            while not ended and time.monotonic() < end:
                ended = backend.finished(0.2)
                notes.add(backend.note())
        finally:
            backend.close()
            with suppress(ProcessLookupError):
                os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert [(key, outcome["state"]) for key, outcome in ended] == [("data/a", "done")]
    assert "no Dask worker is connected, 1 jobs wait for one" in notes
    assert (tmp_path / "submitted").read_text().count("x") == 2


def test_a_worker_that_does_not_see_the_campaign_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_mlbench.campaign.task.VISIBLE_WITHIN_S", 0.1)
    elsewhere = data_task(tmp_path / "absent", "data/a") | {"owner": "somebody"}
    outcome = run_task(elsewhere, worker="tcp://w")
    assert outcome["state"] == "failed"
    assert outcome["retry"]
    assert re.search(r"does not see the campaign's folder at .*absent; mount it there", outcome["reason"])
    assert not (tmp_path / "absent").exists()
    with Lease(campaign_lease(tmp_path)).acquire() as lease:
        assert run_task(data_task(tmp_path, "data/b") | {"owner": "before us"})["state"] == "failed"
        assert run_task(data_task(tmp_path, "data/b") | {"owner": lease.owner})["state"] == "done"
    close_idle()


def test_ctrl_c_stays_what_it_was():
    """dask-jobqueue, when it is imported, makes it end the process; campaigns and tests after it would not stop in order."""
    program = (
        "import signal, sys\n"
        "from openmm_mlbench.campaign import dask_backend\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "dask_backend._import('dask_jobqueue')\n"
        "assert 'dask_jobqueue.runner' in sys.modules\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_slurm_workers_that_could_not_reach_the_scheduler_are_refused():
    with pytest.raises(CampaignError, match="cannot reach a scheduler that listens on this one alone"):
        slurm_cluster(Cluster(), Network())
    with pytest.raises(CampaignError, match=r"--cluster slurm: .*correct `cluster:`"):
        slurm_cluster(Cluster(interface="no-such-interface"), Network(dashboard_port=0))


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr("openmm_mlbench.campaign.dask_backend._CONNECT_S", 1)
    with pytest.raises(CampaignError, match=r"--scheduler tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        connect("tcp://127.0.0.1:9", Network())


def test_gpus_are_resources_that_training_and_simulation_ask_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert find_gpus() == ["4", "7"]
    backend = start_local(None, Network(dashboard_port=0))
    try:
        workers = backend.client.scheduler_info(n_workers=-1)["workers"]
        assert [worker["resources"] for worker in workers.values()] == [{"GPU": 1.0}] * 2
        assert backend.describe()[0].endswith("2 workers, 2 GPUs")
        seen = backend.client.run(seen_gpu)
        assert sorted(seen.values()) == ["4", "7"]
    finally:
        backend.close()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_gpus() == []


def seen_gpu():
    import os

    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_jobs_for_gpus_go_to_workers_that_have_one(tmp_path):
    from distributed import Client, Nanny, Scheduler, SpecCluster

    plain = {"nthreads": 1, "host": LOCALHOST, "memory_limit": 0}
    cluster = SpecCluster(
        scheduler={"cls": Scheduler, "options": {"host": LOCALHOST, "port": 0, "dashboard": False}},
        workers={
            0: {"cls": Nanny, "options": plain},
            1: {"cls": Nanny, "options": plain | {"resources": {"GPU": 1}}},
        },
    )
    client = Client(cluster, set_as_default=False)
    backend = DaskBackend(client, cluster)
    try:
        client.wait_for_workers(2, timeout=300)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        (with_gpu,) = (address for address, worker in workers.items() if worker["resources"])
        for i in range(4):
            backend.submit(data_task(tmp_path, f"data/{i}"), gpu=True, avoid="")
        # A worker that failed at a job is the last choice for it.
        backend.submit(data_task(tmp_path, "data/again"), gpu=False, avoid=with_gpu)
        ended = {}
        while len(ended) < 5:
            ended |= dict(backend.finished(5.0))
    finally:
        backend.close()
    assert {outcome["state"] for outcome in ended.values()} == {"done"}
    assert {ended[f"data/{i}"]["worker"] for i in range(4)} == {with_gpu}
    assert ended["data/again"]["worker"] not in ("", with_gpu)
    assert ended["data/0"]["record"]["facts"] == {"frames": 1500}
    # One process did all jobs of a worker, each under a lease and with a log of its own.
    processes = {outcome["where"].partition(",")[0] for outcome in ended.values()}
    assert len(processes) == 2
    assert len(list((tmp_path / "logs" / "data").iterdir())) == 5


def data_task(root, key):
    return dataclasses.asdict(
        Task(
            key=key,
            kind="data",
            identity=key,
            settings={"dataset": "ethanol-gfn2", "data": None},
            how={"fetch": False},
            before={},
            root=str(root),
            ttl_s=60.0,
        )
    )


def test_local_jobs_are_dealt_to_gpus_in_turn(monkeypatch):
    given = []

    def run_task(task, *, variables):
        given.append((task["key"], variables))
        return {"state": "done"}

    monkeypatch.setattr("openmm_mlbench.campaign.local.run_task", run_task)
    backend = LocalBackend(3, gpus=["0", "5"])
    assert backend.describe() == ["3 jobs at a time on this machine, GPUs 0, 5"]
    for name in "abc":
        assert backend.has_room()
        backend.submit({"key": name}, gpu=True, avoid="")
    assert not backend.has_room()
    ended = []
    while len(ended) < 3:
        ended += backend.finished(1.0)
    assert sorted(given) == [
        (name, {"CUDA_VISIBLE_DEVICES": gpu}) for name, gpu in zip("abc", ("0", "5", "0"), strict=True)
    ]
    assert backend.has_room()
    assert LocalBackend(None, gpus=["0", "1", "2"]).workers == 3


def test_where_takes_one_place():
    with pytest.raises(CampaignError, match="exclude each other"):
        Where(scheduler="tcp://x:1", cluster="local")
    with pytest.raises(CampaignError, match="--cluster pbs: is not one of local, slurm"):
        Where(cluster="pbs")
    with pytest.raises(CampaignError, match="--workers is 0"):
        Where(workers=0)
