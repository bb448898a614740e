"""Campaigns from the file to the report: on processes, on Dask, killed, repeated, lengthened, side by side."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import fresh_models
import pytest
import torch
from killing import Hold, assert_same_run

from openmm_mlbench.campaign.jobs import REPORT
from openmm_mlbench.campaign.lease import Lease, latest
from openmm_mlbench.campaign.ledger import Ledger
from openmm_mlbench.campaign.runner import Where, plan_campaign, run_campaign
from openmm_mlbench.campaign.scheduling import BLOCKED
from openmm_mlbench.campaign.task import lease_path
from openmm_mlbench.cli import main
from openmm_mlbench.errors import CampaignError
from openmm_mlbench.export.archive import read_card
from openmm_mlbench.protocol import load_protocol

KEY = "simulate/own/schnet/seed-0"
TEXT = """\
models: [{model: ethanol-gfn2/schnet, name: schnet}]
systems: [{dataset: ethanol-gfn2, protocol: own.xml, name: own}]
simulate: {length_ps: 0.6, replicas: 2, platform: Reference}
check: false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A campaign with a protocol that writes checkpoints often enough to be killed between them."""
    place = tmp_path_factory.mktemp("campaign")
    xml = load_protocol("ethanol").to_xml()
    assert 'checkpoint_interval_ps="5"' in xml
    (place / "own.xml").write_text(xml.replace('checkpoint_interval_ps="5"', 'checkpoint_interval_ps="0.1"'))
    (place / "campaign.yaml").write_text(TEXT)
    return place


@pytest.fixture(scope="module")
def undisturbed(folder):
    """Results of the campaign on processes of this machine."""
    finish(command("run", folder / "campaign.yaml", "-o", folder / "undisturbed", "--workers", 2))
    return folder / "undisturbed"


def command(*arguments, **options):
    """The command line in a process of its own, which may be killed."""
    words = [sys.executable, "-m", "openmm_mlbench.cli", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process, code=0):
    """What it printed on standard output and error, once it has ended as it should."""
    out, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    return out, said


def run_folder(results):
    (found,) = (results / "runs" / "own" / "schnet").iterdir()
    return found


def state_of(results):
    """Inode and time of every file but logs and leases."""
    return {
        str(path.relative_to(results)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in results.rglob("*")
        if path.is_file() and not {"logs", ".leases", "campaign.yaml"} & set(path.relative_to(results).parts)
    }


def assert_same_results(results, others):
    """Every file of the runs, clocks aside."""
    one, two = run_folder(results), run_folder(others)
    assert one.name == two.name
    assert_same_run(one, two)
    for name in ("protocol.xml", "topology.pdb"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert record_of(one) == record_of(two)
    assert metrics_of(one) == metrics_of(two)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())


def record_of(run):
    return without_commit(json.loads((run / "run.json").read_text()))


def without_commit(record):
    """A commit may be made while the tests run."""
    for session in (record, *record["sessions"]):
        session.pop("git_commit")
    return record


def metrics_of(run):
    """metrics.json without speeds, and without how the run came this far."""
    metrics = json.loads((run / "metrics.json").read_text())
    without_commit(metrics["run"]["provenance"])
    metrics["measurements"] = [m for m in metrics["measurements"] if m["observable"] != "steps_per_second"]
    for replica in metrics["run"]["replicas"]:
        del replica["steps_per_second"], replica["resume"]
    return metrics


def wait_for(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing of the kind happened")


def hold_replica(folder, replica):
    """Holds the job of a replica before its third checkpoint, in the middle of the run."""
    return Hold(folder / "hold", f"replica-{replica}/checkpoint.json", 3)


def held_job(hold, results, replica, campaign=None):
    """Process id of the job, which holds the lease of its replica."""
    job = hold.wait(campaign)
    _, holder = latest(lease_path(results, f"{KEY}/replica-{replica}"))
    assert holder.process.pid == job
    return job


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def records(results, key):
    return Ledger(results).read_all(key)


def test_from_the_file_to_the_page(folder, undisturbed):
    campaign, schedule = plan_campaign(folder / "campaign.yaml", undisturbed)
    assert all(state.state == "done" for state in schedule.states.values())
    assert len(schedule.states) == 4
    for replica in range(2):
        (record,) = records(undisturbed, f"{KEY}/replica-{replica}")
        assert record.facts["states"] == ["finished"]
        assert record.facts["time_ps"] == [0.6]
        assert [attempt.outcome for attempt in record.attempts] == ["done"]
        assert set(record.outputs) == {
            str((run_folder(undisturbed) / f"replica-{replica}" / name).relative_to(undisturbed))
            for name in ("status.json", "trajectory.dcd", "log.csv")
        }
    # One record of the run, though two processes worked on it.
    assert len(json.loads((run_folder(undisturbed) / "run.json").read_text())["sessions"]) == 1
    page = (undisturbed / "report.html").read_text()
    assert "ethanol-gfn2" in page
    assert campaign.name == "campaign"
    assert "; paths and commands are relative to its folder of results" in page


def test_a_second_run_redoes_nothing(folder, undisturbed):
    before = state_of(undisturbed)
    out, said = finish(command("run", folder / "campaign.yaml", "-o", undisturbed))
    assert state_of(undisturbed) == before
    # It did not even look for workers.
    assert said == ""
    assert str(undisturbed / "report.html") in out


def test_dry_run_shows_what_is_done_and_writes_nothing(folder, undisturbed, capsys):
    before = state_of(undisturbed)
    main_without_exit("run", folder / "campaign.yaml", "-o", undisturbed, "--dry-run")
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:10] == ["schnet", "own", "-", "-", "-", "-", "-", "2", "done", "done"]
    assert state_of(undisturbed) == before
    main_without_exit("run", folder / "campaign.yaml", "-o", folder / "nothing", "--dry-run")
    shown = capsys.readouterr()
    assert "2 to do" in shown.out
    assert "1.2 ps to simulate" in shown.err
    assert not (folder / "nothing").exists()


def main_without_exit(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 0


def test_a_dask_worker_is_killed_and_every_file_is_that_of_an_undisturbed_campaign(
    folder, undisturbed, tmp_path
):
    """Three workers of a local cluster; one is killed in the middle of a simulation, together with its job."""
    results = tmp_path / "results"
    options = ("--cluster", "local", "--workers", 3, "--dashboard-port", 0)
    hold = hold_replica(tmp_path, 1)
    campaign = command(
        "run", folder / "campaign.yaml", "-o", results, *options, env=os.environ | hold.variables
    )
    job = held_job(hold, results, 1, campaign)
    worker = parent_of(job)
    assert worker != campaign.pid
    os.kill(worker, signal.SIGKILL)
    os.kill(job, signal.SIGKILL)
    out, said = finish(campaign)
    assert "Dask scheduler tcp://127.0.0.1:" in said
    assert "Dask dashboard http://127.0.0.1:" in said
    assert out.strip().endswith("report.html")
    assert_moved_on(results, undisturbed, job, "died")


@pytest.mark.slow
def test_workers_of_somebody_elses_scheduler(folder, undisturbed, tmp_path):
    """One is killed and does not come back; its job sees the end of its pipe, and another worker goes on."""
    results, port = tmp_path / "results", free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    hold = hold_replica(tmp_path, 1)
    started = [
        subprocess.Popen(
            [
                *dask,
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--dashboard-address",
                "127.0.0.1:0",
            ],
            stderr=subprocess.DEVNULL,
        )
    ]
    started += [
        subprocess.Popen(
            [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"],
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
            env=os.environ | hold.variables,
        )
        for _ in range(3)
    ]
    try:
        campaign = command("run", folder / "campaign.yaml", "-o", results, "--scheduler", address)
        job = held_job(hold, results, 1, campaign)
        worker = parent_of(job)
        assert worker in [process.pid for process in started]
        os.kill(worker, signal.SIGKILL)
        hold.let_go()
        finish(campaign)
    finally:
        for process in started:
            process.terminate()
            process.wait()
    assert_moved_on(results, undisturbed, job, "stopped")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def assert_moved_on(results, undisturbed, job, outcome):
    """The first try of replica 1 ended so, another worker went on from a checkpoint, and nothing shows it."""
    assert_same_results(results, undisturbed)
    (record,) = records(results, f"{KEY}/replica-1")
    assert [attempt.outcome for attempt in record.attempts] == [outcome, "done"]
    assert record.attempts[0].where.startswith(f"process {job} on ")
    workers = [attempt.where.rpartition(", ")[2] for attempt in record.attempts]
    assert workers[1].startswith("tcp://127.0.0.1:")
    assert workers[1] != workers[0]
    status = json.loads((run_folder(results) / "replica-1" / "status.json").read_text())
    assert status["resume"] == "exact"


def test_a_longer_campaign_redoes_only_what_hangs_on_the_length(folder, undisturbed, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    first = run_folder(results) / "replica-0" / "trajectory.dcd"
    short = first.read_bytes()
    longer = folder / "longer.yaml"
    longer.write_text(TEXT.replace("length_ps: 0.6", "length_ps: 0.8"))
    _, schedule = plan_campaign(longer, results)
    assert [key for key, state in schedule.states.items() if state.state == "ready"] == [
        f"{KEY}/replica-{i}" for i in range(2)
    ]
    run_campaign(longer, results, Where(workers=2), say=lambda _: None)
    # The same trajectory, further (bytes 8 to 24 of a DCD file count its frames).
    assert first.read_bytes()[100 : len(short)] == short[100:]
    assert len(first.read_bytes()) > len(short)
    assert json.loads((run_folder(results) / "metrics.json").read_text())["run"]["length_ps"] == 0.8

    # The shorter one is part of it: nothing is cut, and only the page and numbers are as they were.
    before = state_of(results)
    _, schedule = plan_campaign(folder / "campaign.yaml", results)
    assert all(state.state == "done" for key, state in schedule.states.items() if key.startswith("simulate"))
    assert state_of(results) == before


def test_a_result_that_was_changed_by_hand_is_not_taken_for_its_own(folder, undisturbed, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    damaged = run_folder(results) / "replica-1" / "trajectory.dcd"
    content = bytearray(damaged.read_bytes())
    content[-10] ^= 1
    damaged.write_bytes(content)
    schedule = run_campaign(folder / "campaign.yaml", results, say=lambda _: None)
    state = schedule.states[f"{KEY}/replica-1"]
    assert state.state == "failed"
    assert "replica-1/trajectory.dcd: is not what was written" in state.reason
    # No second try, no other job harmed, and the report is of the rest.
    assert state.failures == 1
    assert schedule.states[REPORT].state == "done"
    # Asked again it says so again.
    schedule = run_campaign(folder / "campaign.yaml", results, say=lambda _: None)
    assert "is not what was written" in schedule.states[f"{KEY}/replica-1"].reason
    # Without the folder it is simulated again.
    shutil.rmtree(damaged.parent)
    schedule = run_campaign(folder / "campaign.yaml", results, say=lambda _: None)
    assert all(state.state == "done" for state in schedule.states.values())
    assert_same_results(results, undisturbed)


def test_of_two_campaigns_in_one_folder_the_second_gets_one_line(folder, tmp_path):
    results, long = tmp_path / "results", folder / "long.yaml"
    long.write_text(TEXT.replace("length_ps: 0.6", "length_ps: 10000"))
    first = command("run", long, "-o", results, "--workers", 1)
    wait_for(lambda: list(results.glob("runs/own/schnet/*/replica-0/checkpoint.json")))
    _, said = finish(command("run", long, "-o", results), 2)
    assert said.count("\n") == 1
    assert f"another campaign is running there (process {first.pid} on " in said
    # And the first is stopped: in order, with all that it had.
    first.send_signal(signal.SIGINT)
    _, said = finish(first, 2)
    assert "stopped with 0 of 4 jobs done; the same command goes on" in said
    status = json.loads((run_folder(results) / "replica-0" / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert 0.1 < status["time_ps"] < 10000


def test_a_campaign_that_was_killed_goes_on(folder, undisturbed, tmp_path):
    results = tmp_path / "results"
    hold = hold_replica(tmp_path, 1)
    first = command(
        "run", folder / "campaign.yaml", "-o", results, "--workers", 2, env=os.environ | hold.variables
    )
    held_job(hold, results, 1, first)
    first.kill()
    first.communicate()
    hold.let_go()
    # Its jobs may still be writing their last frames: the leases hold the successors up.
    finish(command("run", folder / "campaign.yaml", "-o", results, "--workers", 2))
    assert_same_results(results, undisturbed)


def test_a_bad_model_costs_the_good_one_nothing(folder, undisturbed, tmp_path):
    """One collapses, one has a false claim on its card, one dies with its process."""
    results = tmp_path / "results"
    fresh_models.write_archive(folder / "collapsing.pt")
    (folder / "mixed.yaml").write_text(
        TEXT.replace(
            "models: [",
            "models: [collapsing.pt, {model: schnet, name: lost, train: {train_frames: 999999}}, ",
        )
    )
    run = run_folder(undisturbed).relative_to(undisturbed)
    hold = Hold(tmp_path / "hold", f"{run}/replica-0/checkpoint.json", 3)
    campaign = command(
        "run", folder / "mixed.yaml", "-o", results, "--workers", 2, env=os.environ | hold.variables
    )
    job = held_job(hold, results, 0, campaign)
    os.kill(job, signal.SIGKILL)
    out, said = finish(campaign, 1)
    assert_same_results(results, undisturbed)
    (record,) = records(results, f"{KEY}/replica-0")
    assert [attempt.outcome for attempt in record.attempts] == ["died", "done"]
    assert "was killed by signal 9" in record.attempts[0].reason
    assert f"{KEY}/replica-0: tried again after" in said

    # A collapse is a result: done, measured, in the report.
    (collapsed,) = records(results, "simulate/own/collapsing/seed-0/replica-0")
    assert (collapsed.state, collapsed.facts["states"]) == ("done", ["unstable"])
    assert "simulate/own/collapsing/seed-0/replica-0" in out
    # A mistake is not: what cannot run for it says so, in the table and in the ledger.
    (failed,) = records(results, "train/ethanol-gfn2/lost/seed-0")
    assert failed.state == "failed"
    assert "999999" in failed.reason
    assert failed.reason in out
    _, schedule = plan_campaign(folder / "mixed.yaml", results)
    assert schedule.states["analyze/own/collapsing/seed-0"].state == "done"
    assert "needs train/ethanol-gfn2/lost/seed-0" in out
    assert (results / "report.html").is_file()
    assert BLOCKED in out


TRAINED = """\
models: [deeppot-se]
systems: [{dataset: ethanol-gfn2, protocol: own.xml, name: own}]
seeds: [3]
train: {train_frames: 20, validation_frames: 5, test_frames: 5, epochs: 6, batch_size: 10}
simulate: {length_ps: 0.1, replicas: 1, platform: Reference}
"""


@pytest.fixture(scope="module")
def trained(folder):
    """Results of a campaign with a training, and how it ended."""
    (folder / "trained.yaml").write_text(TRAINED)
    results = folder / "trained" / "results"
    return results, run_campaign(folder / "trained.yaml", results, say=lambda _: None)


def test_from_data_to_report_with_training(trained, tmp_path):
    results, schedule = trained
    assert [(key.partition("/")[0], state.state) for key, state in schedule.states.items()] == [
        (kind, "done") for kind in ("data", "train", "export", "check", "simulate", "analyze", "report")
    ]
    (archive,) = (results / "models").rglob("*.pt")
    run = next((results / "runs").rglob("run.json")).parent
    record = json.loads((run / "run.json").read_text())
    # Relative to the results, which may be moved as a whole.
    assert record["model"]["model"] == str(archive.relative_to(results))
    assert record["seed"] == 3
    assert record["model"]["card"]["training"]["command"].startswith(
        "openmm-mlbench train deeppot-se ethanol-gfn2 -o train/"
    )
    # The training that the card names, repeated: the same weights.
    (best,) = (results / "train").rglob("best.pt")
    recipe = json.loads(torch.load(best, weights_only=True)["recipe"])
    assert (recipe["seed"], recipe["max_epochs"]) == (3, 6)

    moved = tmp_path / "moved"
    place = moved / run.relative_to(results)
    results.rename(moved)
    try:
        (place / "metrics.json").rename(tmp_path / "metrics.json")
        main_without_exit("analyze", place)
        metrics = json.loads((place / "metrics.json").read_text())
        (tmp_path / "metrics.json").rename(place / "metrics.json")
    finally:
        moved.rename(results)
    force = next(m for m in metrics["measurements"] if m["observable"] == "force_mae")
    assert force["inputs"]["from"] == "test frames"


def test_a_training_that_was_killed_goes_on(folder, trained, tmp_path):
    """The same weights, and an archive that says the same."""
    results = tmp_path / "results"
    # Before the fourth epoch is logged; the checkpoint is of the first.
    hold = Hold(tmp_path / "hold", "/log.csv", 4)
    first = command("run", folder / "trained.yaml", "-o", results, env=os.environ | hold.variables)
    job = hold.wait(first)
    first.kill()
    _, holder = latest(lease_path(results, "train/ethanol-gfn2/deeppot-se/seed-3"))
    assert holder.process.pid == job
    os.kill(job, signal.SIGKILL)
    first.communicate()
    (log,) = results.glob("train/ethanol-gfn2/deeppot-se/*/log.csv")
    assert len(log.read_text().splitlines()) == 1 + 3
    schedule = run_campaign(folder / "trained.yaml", results, say=lambda _: None)
    assert all(state.state == "done" for state in schedule.states.values())
    weights, cards = [], []
    for place in (results, trained[0]):
        (archive,) = (place / "models").rglob("*.pt")
        weights.append(torch.jit.load(archive).state_dict())
        card = json.loads(read_card(archive).to_json())
        del card["training"]["minutes"], card["training"]["command"]
        cards.append(card)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert cards[0] == cards[1]


def test_a_folder_with_something_else_is_refused(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(CampaignError, match=r"holds thesis\.tex but no campaign"):
        run_campaign(folder / "campaign.yaml", tmp_path)
    with pytest.raises(CampaignError, match="is a file"):
        run_campaign(folder / "campaign.yaml", tmp_path / "thesis.tex")


def test_a_campaign_that_was_superseded_gives_up(folder, tmp_path, monkeypatch):
    """As after a long pause of its machine, when another campaign has taken its lease."""
    results = tmp_path / "results"
    hold = hold_replica(tmp_path, 0)
    for name, value in hold.variables.items():
        monkeypatch.setenv(name, value)
    campaign = threading.Thread(target=lambda: said.append(refusal(folder / "campaign.yaml", results)))
    said = []
    campaign.start()
    held_job(hold, results, 0)
    successor = Lease(results / ".leases" / "campaign")
    assert successor._take(2)
    campaign.join(timeout=300)
    hold.let_go()
    assert "another campaign has taken over there" in said[0]
    # What runs is the successor's now: nobody was told to stop.
    assert not (results / ".leases" / "stop").exists()
    successor.release()
    # The rest of the test's own jobs.
    run_campaign(folder / "campaign.yaml", results, say=lambda _: None)


def refusal(file, results):
    with pytest.raises(CampaignError) as caught:
        run_campaign(file, results, Where(workers=1), say=lambda _: None, ttl_s=6.0)
    return str(caught.value)
