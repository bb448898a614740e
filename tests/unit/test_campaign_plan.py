"""Campaign files, the jobs that they become, and what identifies a job."""

import dataclasses

import pytest

from openmm_mlbench.campaign.jobs import KINDS, identify, make_matrix
from openmm_mlbench.campaign.plan import read_campaign
from openmm_mlbench.errors import CampaignError, MLBenchError

WHOLE = """\
name: everything
models:
  - schnet
  - model: deeppot-se
    name: small
    train: {epochs: 3, learning_rate: 1e-3}
  - ethanol-gfn2/schnet
systems:
  - ethanol-gfn2
  - dataset: ethanol-gfn2
    variant: nve
    simulate: {length_ps: 2, replicas: 1}
seeds: [1, 2]
train: {recipe: fast, train_frames: 20, validation_frames: 5, test_frames: 5, epochs: 2}
simulate: {length_ps: 1, replicas: 3, platform: Reference}
gpu: no
cluster: {walltime: 08:00:00, setup: [module load cuda]}
"""


def write(folder, text):
    path = folder / "campaign.yaml"
    path.write_text(text)
    return path


def matrix(folder, text):
    return make_matrix(read_campaign(write(folder, text)))


def test_everything_that_a_file_can_say(tmp_path):
    campaign = read_campaign(write(tmp_path, WHOLE))
    assert [entry.model for entry in campaign.models] == ["schnet", "deeppot-se", "ethanol-gfn2/schnet"]
    assert campaign.models[1].train.learning_rate == 1e-3
    assert campaign.models[1].train.given == ("epochs", "learning_rate")
    assert campaign.systems[1].simulate.length_ps == 2.0
    assert (campaign.seeds, campaign.gpu, campaign.check) == ((1, 2), "no", True)
    # YAML by itself takes this for a number of seconds.
    assert campaign.cluster.walltime == "08:00:00"
    assert campaign.cluster.setup == ("module load cuda",)


BASE = "models: [schnet]\nsystems: [ethanol-gfn2]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            BASE + "simulate: {lenght_ps: 3}",
            r"line 3: simulate\.lenght_ps: is not known; did you mean length_ps\?",
        ),
        (BASE + "simulate:\n  length_ps: long\n", r"line 4: simulate\.length_ps: 'long' is not a number"),
        (BASE + "simulate:\n  replicas: 2.5\n", r"line 4: simulate\.replicas: '2\.5' is not a whole number"),
        (BASE + "simulate: {length_ps: -1}", r"line 3: simulate\.length_ps: -1 must be larger than 0"),
        (BASE + "seeds: 3", r"line 3: seeds: wanted a list"),
        (BASE + "seeds: [1, two]", r"line 3: seeds\[1\]: 'two' is not a whole number"),
        (BASE + "check: maybe", "line 3: check: 'maybe' is not true or false"),
        (BASE + "gpu: sometimes", "line 3: gpu: 'sometimes' is not one of auto, yes, no"),
        (BASE + "cluster: {gpus: 8}", r"line 3: cluster\.gpus: 8 is not one of 0, 1"),
        (BASE + "name: a\nname: b", "line 4: name: stands there twice"),
        ("systems: [ethanol-gfn2]", "line 1: the file: lacks models"),
        ("models: []\nsystems: [ethanol-gfn2]", "models is empty"),
        ("models:\n  - {shipped: true}\nsystems: [x]", r"line 2: models\[0\]: lacks model"),
        ("models: [a\nsystems: [b]", "line 2: not valid YAML"),
        ("- schnet\n", "line 1: the file: wanted keys and values; known keys are models, systems"),
        ("", "the file: wanted keys and values"),
    ],
)
def test_mistakes_are_named_with_line_and_key(tmp_path, text, said):
    with pytest.raises(CampaignError, match=said) as caught:
        read_campaign(write(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "campaign.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "models: [schnett]\nsystems: [ethanol-gfn2]",
            "model 'schnett' is neither a file nor a shipped model",
        ),
        ("models: [schnet]\nsystems: [ethanoll]", "ethanoll.*did you mean|ethanol"),
        (BASE + "train: {recipe: quick}", "recipe 'quick' of schnet is not known"),
        (BASE + "simulate: {length_ps: 0.33333}", "0.33333"),
        (
            "models: [schnet, schnet]\nsystems: [ethanol-gfn2]",
            "models has schnet twice; give one of them a name",
        ),
        ("models: [ethanol-gfn2/schnet]\nsystems: [water-1k]", "made for none of the systems water-1k"),
        (
            "models: [{model: schnet, name: a/b}]\nsystems: [ethanol-gfn2]",
            "name 'a/b' cannot be part of a path",
        ),
        ("models: [schnet]\nsystems: [{dataset: ethanol-gfn2, variant: fast}]", "fast"),
    ],
)
def test_what_is_not_known_is_said_before_anything_runs(tmp_path, text, said):
    with pytest.raises(CampaignError, match=said):
        matrix(tmp_path, text)


def test_a_missing_file(tmp_path):
    with pytest.raises(CampaignError, match=r"absent\.yaml: cannot be read \(No such file"):
        read_campaign(tmp_path / "absent.yaml")


def test_the_jobs_of_a_matrix(tmp_path):
    made = matrix(tmp_path, WHOLE)
    assert len(made.cells) == 3 * 2 * 2
    counts = {kind: sum(job.kind == kind for job in made.jobs.values()) for kind in KINDS}
    # Both systems train on the same data, so they share what was trained; the shipped model is checked once.
    assert counts == {
        "data": 1, "train": 4, "export": 4, "check": 5, "simulate": 6 * 3 + 6 * 1, "analyze": 12, "report": 1,
    }  # fmt: skip
    # Whatever a job builds on stands before it.
    seen = set()
    for key, job in made.jobs.items():
        assert set(job.before) <= seen
        seen.add(key)
    own = made.jobs["train/ethanol-gfn2/small/seed-2"]
    assert (own.settings["recipe"]["max_epochs"], own.settings["recipe"]["seed"]) == (3, 2)
    assert made.jobs["train/ethanol-gfn2/schnet/seed-1"].settings["recipe"]["max_epochs"] == 2
    assert made.jobs["simulate/ethanol-gfn2-nve/schnet/seed-1/replica-0"].settings["length_ps"] == 2.0
    assert not any(job.gpu for job in made.jobs.values())


def test_replicas_that_share_a_context_or_hills_are_one_job(tmp_path):
    batched = matrix(
        tmp_path,
        "models: [ethanol-gfn2/schnet]\nsystems: [ethanol-gfn2]\nsimulate: {replicas: 5, batch_replicas: 2}",
    )
    keys = [key.rpartition("/")[2] for key in batched.jobs if key.startswith("simulate")]
    assert keys == ["replicas-0-1", "replicas-2-3", "replica-4"]
    shared = matrix(
        tmp_path,
        "models: [amber03-obc]\nsystems: [alanine-dipeptide-obc]\nsimulate: {replicas: 3, walkers: shared}",
    )
    jobs = [job for job in shared.jobs.values() if job.kind == "simulate"]
    assert [job.settings["replicas"] for job in jobs] == [[0, 1, 2]]
    # A potential of the package's own has no claims to check.
    assert not any(job.kind == "check" for job in shared.jobs.values())


def test_shipped_models_of_every_system(tmp_path):
    made = matrix(tmp_path, "models: [{model: schnet, shipped: true}]\nsystems: [ethanol-gfn2, ethanol]")
    assert [job.settings["archive"] for job in made.jobs.values() if job.kind == "check"] == [
        "ethanol-gfn2/schnet",
        "ethanol/schnet",
    ]


def test_shipped_models_where_there_are_any(tmp_path):
    made = matrix(tmp_path, "models: [{model: nequip, shipped: true}]\nsystems: [ethanol-gfn2, ethanol]")
    assert [cell.system for cell in made.cells] == ["ethanol"]


def test_on_gpus_all_replicas_of_a_run_share_a_context_if_nothing_else_is_said(tmp_path):
    text = "models: [ethanol-gfn2/schnet]\nsystems: [ethanol-gfn2]\nsimulate: {replicas: 3}"

    def n_simulations(text, gpus):
        made = make_matrix(read_campaign(write(tmp_path, text)), gpus=gpus)
        return sum(job.kind == "simulate" for job in made.jobs.values())

    assert (n_simulations(text, True), n_simulations(text, False)) == (1, 3)
    for given, wanted in (("off", 3), ("2", 2), ("9", 1)):
        assert n_simulations(text.replace("{", f"{{batch_replicas: {given}, "), True) == wanted
    assert n_simulations(text.replace("{", "{platform: Reference, "), True) == 3
    with pytest.raises(CampaignError, match=r"batch_replicas: '0' is not auto, off, or a number of replicas"):
        read_campaign(write(tmp_path, text.replace("{", "{batch_replicas: 0, ")))


def test_an_identity_hangs_on_what_decides_the_result_and_on_nothing_else(tmp_path):
    text = "models: [ethanol-gfn2/schnet]\nsystems: [ethanol-gfn2]\nsimulate: {length_ps: 1}\n"
    key = "simulate/ethanol-gfn2/ethanol-gfn2-schnet/seed-0/replica-1"

    def identity(text, digests=()):
        return identify(matrix(tmp_path, text).jobs[key], dict(digests))

    base = identity(text)
    same = (
        text + "check: false",
        text + "gpu: yes",
        text.replace("length_ps: 1", "length_ps: 1, platform: CPU"),
    )
    assert {identity(other) for other in same} == {base}
    # More replicas beside it, and the check of the model, change nothing either.
    assert identity(text.replace("length_ps: 1", "length_ps: 1, replicas: 7")) == base
    assert identity(text, [("check/ethanol-gfn2/ethanol-gfn2-schnet", "passed")]) == base
    for other in (
        text.replace("length_ps: 1", "length_ps: 2"),
        text.replace("[ethanol-gfn2]", "[{dataset: ethanol-gfn2, variant: gentle, name: ethanol-gfn2}]"),
        text.replace("ethanol-gfn2/schnet", "ethanol-gfn2/schnet, name: ethanol-gfn2-schnet").replace(
            "[ethanol", "[{model: ethanol", 1
        ).replace("schnet]", "schnet}]", 1).replace("ethanol-gfn2/schnet", "ethanol-gfn2/deeppot-se"),
    ):  # fmt: skip
        assert identity(other) != base


def test_a_finished_model_is_run_again_when_its_data_have_come_or_changed(tmp_path):
    file = tmp_path / "frames.npz"
    text = f"models: [ethanol/schnet]\nsystems: [{{dataset: ethanol, data: {file}}}]\nsimulate: {{length_ps: 1}}\n"
    keys = ("simulate/ethanol/ethanol-schnet/seed-0/replica-0", "analyze/ethanol/ethanol-schnet/seed-0")

    def identities():
        jobs = matrix(tmp_path, text).jobs
        return [identify(jobs[key], {}) for key in keys]

    absent = identities()
    file.write_bytes(b"one")
    present = identities()
    assert identities() == present
    file.write_bytes(b"two")
    for found in (absent, present):
        assert all(one != other for one, other in zip(identities(), found, strict=True))
    # Runs of what is trained here are known by the training.
    trained = matrix(tmp_path, "models: [schnet]\nsystems: [ethanol-gfn2]").jobs
    assert not any(
        "frames" in job.settings for job in trained.values() if job.kind in ("simulate", "analyze")
    )


def test_runs_of_a_finished_model_wait_for_what_the_campaign_fetches(tmp_path):
    """What another model fetches would otherwise come in the middle of them."""
    text = "models: [schnet, {model: ethanol/schnet, name: shipped}]\nsystems: [ethanol, ethanol-gfn2]\nfetch: true\n"
    jobs = matrix(tmp_path, text).jobs
    runs = {key: job for key, job in jobs.items() if job.kind == "simulate" and "shipped" in key}
    assert {"data/ethanol" in job.needs for job in runs.values() if "/ethanol/" in job.key} == {True}
    assert all("frames" not in job.settings for job in runs.values() if "/ethanol/" in job.key)
    # Once for both models, and nothing is fetched of what ships.
    assert sum(key == "data/ethanol" for key in jobs) == 1
    offline = matrix(tmp_path, text.replace("true", "false")).jobs
    assert all(
        "frames" in offline[key].settings and offline[key].needs[:1] != ("data/ethanol",) for key in runs
    )


def test_a_training_for_one_entry_alone_is_a_model_of_its_own(tmp_path):
    """In tables and figures: seeds of one training are put together, other trainings are not."""
    text = (
        "models: [schnet]\nseeds: [0, 1]\nsystems:\n  - {dataset: ethanol-gfn2, name: small, train: {train_frames: 100, "
        "validation_frames: 20, test_frames: 20}}\n  - ethanol-gfn2\n"
    )
    jobs = matrix(tmp_path, text).jobs.values()
    names = {
        (job.how["campaign"]["system"], job.how["campaign"]["model"])
        for job in jobs
        if job.kind == "simulate"
    }
    assert names == {("small", "schnet@small"), ("ethanol-gfn2", "schnet")}


def test_a_training_on_gpus_is_another_one(tmp_path):
    text = "models: [schnet]\nsystems: [ethanol-gfn2]\n"

    def job(text, gpus):
        return make_matrix(read_campaign(write(tmp_path, text)), gpus=gpus).jobs[
            "train/ethanol-gfn2/schnet/seed-0"
        ]

    on_cpu, on_gpu = job(text, False), job(text, True)
    assert on_cpu.settings["recipe"]["batch_size"] == 5
    assert on_gpu.settings["recipe"]["batch_size"] == 25
    assert (on_cpu.how["gpu_recipe"], on_gpu.how["gpu_recipe"]) == (False, True)
    assert identify(job(text + "train: {device: cuda}", False), {}) == identify(on_gpu, {})
    assert identify(job(text + "train: {device: cpu}", True), {}) == identify(on_cpu, {})


def test_files_of_one_name_are_two_data_sets(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "frames.npz").write_bytes(b"")
    systems = "[{dataset: a/frames.npz, name: A, protocol: ethanol}, {dataset: b/frames.npz, name: B, protocol: ethanol}]"
    text = f"models: [schnet]\nsystems: {systems}\ntrain: {{train_frames: 9, validation_frames: 1, test_frames: 1}}\n"
    jobs = matrix(tmp_path, text).jobs
    sources = {job.settings["dataset"] for job in jobs.values() if job.kind == "data"}
    assert sources == {str(tmp_path / folder / "frames.npz") for folder in "ab"}
    assert sum(job.kind == "train" for job in jobs.values()) == 2


def test_a_job_is_redone_when_what_it_builds_on_has_changed(tmp_path):
    job = matrix(tmp_path, WHOLE).jobs["export/ethanol-gfn2/schnet/seed-1"]
    first = identify(job, {"train/ethanol-gfn2/schnet/seed-1": "a"})
    assert identify(job, {"train/ethanol-gfn2/schnet/seed-1": "b"}) != first
    assert identify(dataclasses.replace(job, how={"data": "elsewhere"}), {job.needs[0]: "a"}) == first


def test_paths_are_relative_to_the_campaign(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "recipe.yaml").write_text("schedule: cosine\nmax_epochs: 7\n")
    path = write(tmp_path / "own", BASE + "train: {recipe: ../recipe.yaml}")
    monkeypatch.chdir(tmp_path)
    train = make_matrix(read_campaign("own/campaign.yaml")).jobs["train/ethanol-gfn2/schnet/seed-0"]
    assert train.settings["recipe"]["max_epochs"] == 7
    assert train.how["request"]["recipe"] == str(path.parent.parent / "recipe.yaml")


def test_every_mistake_is_one_of_ours(tmp_path):
    with pytest.raises(MLBenchError):
        matrix(tmp_path, "models: [schnet]\nsystems: [../../etc]")
