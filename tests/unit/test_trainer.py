"""Training: the same seed is the same run, a kill costs nothing, and other runs are refused."""

import csv
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import fresh_models
import numpy as np
import pytest
import torch
from killing import Hold
from scipy.spatial.transform import Rotation

from openmm_mlbench.data.splits import make_split
from openmm_mlbench.errors import ModelError, TrainingError
from openmm_mlbench.models.registry import ARCHITECTURES, build_network
from openmm_mlbench.training.batches import turned
from openmm_mlbench.training.config import Recipe
from openmm_mlbench.training.recipe_files import recipe_for
from openmm_mlbench.training.trainer import (
    LOG_COLUMNS,
    Trainer,
    ema_update,
    fit_reference_energies,
    force_field_from_checkpoint,
    load_checkpoint,
    predict,
)

RECIPE = Recipe(
    model="schnet",
    hyperparameters=fresh_models.TINY["schnet"],
    batch_size=4,
    schedule="cosine",
    max_epochs=4,
    warmup_steps=6,
)


def few_frames(n_frames=24):
    frames, _ = fresh_models.ethanol()
    return frames.select(np.arange(n_frames))


def trainer(folder, recipe=RECIPE, frames=None, sizes=(16, 8, 0), **changes):
    frames = few_frames() if frames is None else frames
    recipe = dataclasses.replace(recipe, **changes)
    return Trainer(recipe, frames, make_split(frames, *sizes, seed=0), folder)


def same_weights(one, other):
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


def read_log(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


class Stop(Exception):  # noqa: N818 - stands for Ctrl-C
    pass


def stop_at(epoch):
    def on_epoch(_, row):
        if row["epoch"] == epoch:
            raise Stop

    return on_epoch


@pytest.mark.parametrize("model", sorted(ARCHITECTURES))
def test_the_seed_decides_the_first_ten_losses(tmp_path, model):
    hyperparameters = fresh_models.TINY[model]
    losses = []
    for k, seed in enumerate((0, 0, 1)):
        run = trainer(
            tmp_path / str(k), model=model, hyperparameters=hyperparameters, seed=seed, max_epochs=3
        )
        run.run()
        losses.append(run.step_losses)
    assert len(losses[0]) == 10
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[2][0]


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "exponential"])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(tmp_path, schedule):
    whole = trainer(tmp_path / "whole", schedule=schedule)
    whole.run()
    with pytest.raises(Stop):
        trainer(tmp_path / "cut", schedule=schedule).run(on_epoch=stop_at(3))
    # Two epochs were logged after the checkpoint that the resumed run goes on from.
    assert len(read_log(tmp_path / "cut")) == 3
    assert load_checkpoint(tmp_path / "cut" / "last.pt")["epoch"] == 1
    resumed = trainer(tmp_path / "cut", schedule=schedule)
    resumed.run(resume=True)
    for name in ("last.pt", "best.pt"):
        one, other = (load_checkpoint(tmp_path / folder / name) for folder in ("whole", "cut"))
        for key in ("force_field", "averaged", "evaluated"):
            assert same_weights(one[key], other[key])
        assert one["epoch"] == other["epoch"]
        assert one["best_force_mae"] == other["best_force_mae"]
    assert resumed.step_losses == whole.step_losses
    logs = [read_log(tmp_path / folder) for folder in ("whole", "cut")]
    for row in (*logs[0], *logs[1]):
        del row["seconds"]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_goes_on_where_it_was_cut(tmp_path, name):
    """Statistics of batches and scale factors are in the checkpoint too."""
    recipe = recipe_for(name).with_overrides(
        hyperparameters=fresh_models.TINY[name], batch_size=4, max_epochs=3
    )
    given = {"recipe": recipe, "frames": few_frames(12), "sizes": (8, 4, 0)}
    trainer(tmp_path / "whole", **given).run()
    with pytest.raises(Stop):
        trainer(tmp_path / "cut", **given).run(on_epoch=stop_at(2))
    trainer(tmp_path / "cut", **given).run(resume=True)
    one, other = (load_checkpoint(tmp_path / folder / "last.pt") for folder in ("whole", "cut"))
    assert (one["epoch"], other["epoch"]) == (3, 3)
    assert one["averaged"] is None or same_weights(one["averaged"], other["averaged"])
    for key in ("force_field", "evaluated"):
        assert same_weights(one[key], other[key])


def test_the_log_has_one_line_per_epoch(tmp_path):
    trainer(tmp_path).run()
    rows = read_log(tmp_path)
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows] == [4, 8, 12, 16]
    best = [float(row["best_force_mae_meV_A"]) for row in rows]
    found = [float(row["validation_force_mae_meV_A"]) for row in rows]
    assert best == list(np.minimum.accumulate(found))


def start_training(folder, *options, epochs, **variables):
    command = [
        sys.executable, "-m", "openmm_mlbench.cli", "train", "schnet", "ethanol-gfn2", "-o", str(folder),
        "--train-frames", "20", "--validation-frames", "5", "--test-frames", "5", "--batch-size", "4",
        "--device", "cpu", "--epochs", str(epochs), *options,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | variables
    )


def wait_for_epochs(process, folder, n_epochs):
    deadline = time.monotonic() + 500
    log = folder / "log.csv"
    while not (log.exists() and len(log.read_text().splitlines()) > n_epochs):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_9_and_resume(tmp_path):
    """A process killed without warning leaves a folder that --resume ends as if nothing had been."""
    epochs = 5
    # Before the fourth epoch is logged; the checkpoint is of the first.
    hold = Hold(tmp_path / "hold", "cut/log.csv", 4)
    process = start_training(tmp_path / "cut", epochs=epochs, **hold.variables)
    try:
        assert hold.wait(process) == process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(read_log(tmp_path / "cut")) == 3
    resumed = start_training(tmp_path / "cut", "--resume", epochs=epochs)
    _, errors = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, errors
    frames, _ = fresh_models.ethanol()
    recipe = recipe_for("schnet").with_overrides(max_epochs=epochs, batch_size=4)
    whole = Trainer(recipe, frames, make_split(frames, 20, 5, 5, 0), tmp_path / "whole")
    whole.run()
    one, other = (load_checkpoint(tmp_path / folder / "last.pt") for folder in ("whole", "cut"))
    assert same_weights(one["evaluated"], other["evaluated"])
    assert [row["epoch"] for row in read_log(tmp_path / "cut")] == [str(k + 1) for k in range(epochs)]


def test_an_interrupt_gives_one_line(tmp_path):
    process = start_training(tmp_path, epochs=100_000)
    try:
        wait_for_epochs(process, tmp_path, 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if "epoch" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: interrupted")
    assert "epoch" in load_checkpoint(tmp_path / "last.pt")


def test_a_run_cut_in_its_first_epoch_can_be_resumed(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run()
    cut = trainer(tmp_path / "cut")
    cut.train_epoch = lambda: stop_at(1)(None, {"epoch": 1})
    with pytest.raises(Stop):
        cut.run()
    resumed = trainer(tmp_path / "cut")
    resumed.run(resume=True)
    assert same_weights(whole.force_field.state_dict(), resumed.force_field.state_dict())
    assert len(read_log(tmp_path / "cut")) == RECIPE.max_epochs


def test_an_old_log_without_its_checkpoint_is_not_continued(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,step\n1,4\n")
    trainer(tmp_path).run()
    assert len(read_log(tmp_path)) == RECIPE.max_epochs


def test_other_runs_are_refused(tmp_path):
    trainer(tmp_path, max_epochs=1).run()
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match="holds a training run; give --resume"):
        trainer(tmp_path, max_epochs=1).run()
    for changes in ({"batch_size": 2}, {"seed": 1}, {"max_epochs": 2}):
        with pytest.raises(TrainingError, match="was made with another recipe"):
            trainer(tmp_path, **({"max_epochs": 1} | changes)).run(resume=True)
    with pytest.raises(TrainingError, match="another data set or split"):
        trainer(tmp_path, max_epochs=1, sizes=(17, 7, 0)).run(resume=True)
    other_labels = few_frames()
    other_labels = dataclasses.replace(other_labels, energies=other_labels.energies + 1.0)
    with pytest.raises(TrainingError, match="another data set or split"):
        trainer(tmp_path, max_epochs=1, frames=other_labels).run(resume=True)
    with pytest.raises(TrainingError, match="does not exist; start without --resume"):
        trainer(tmp_path / "empty").run(resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_of_two_trainings_in_one_folder_the_second_gets_one_line(tmp_path):
    """The first goes on, and its folder is free once it has ended."""
    refusals = []

    def second(*_):
        for resume in (False, True):
            with pytest.raises(
                TrainingError, match="another process is writing there; wait for it"
            ) as caught:
                trainer(tmp_path).run(resume=resume)
            refusals.append(str(caught.value))

    first = trainer(tmp_path)
    first.run(on_epoch=second)
    assert len(refusals) == 2 * RECIPE.max_epochs
    assert all("\n" not in refusal for refusal in refusals)
    alone = trainer(tmp_path / "alone")
    alone.run()
    assert same_weights(first.force_field.state_dict(), alone.force_field.state_dict())
    trainer(tmp_path).run(resume=True)


def test_the_limit_of_time_ends_a_run_which_may_go_on_later(tmp_path):
    run = trainer(tmp_path, max_minutes=1e-9)
    run.run()
    assert run.epoch == 1
    longer = trainer(tmp_path, max_minutes=10.0)
    longer.run(resume=True)
    assert longer.epoch == RECIPE.max_epochs


def test_plateau_reduces_the_rate_and_ends_the_run(tmp_path):
    """A loss that never improves: after patience + 1 epochs 0.8 times the rate, and so on to the end."""
    run = trainer(
        tmp_path, schedule="plateau", patience=2, final_learning_rate=0.6e-3, max_epochs=50, warmup_steps=0
    )
    run.validate = lambda: (1.0, 1.0, 1.0)
    run.run()
    # The first value is the best; the third epoch after it without improvement acts.
    wanted = [1e-3] * 3 + [0.8e-3] * 3 + [0.64e-3] * 3 + [0.512e-3]
    rates = [float(row["learning_rate"]) for row in read_log(tmp_path)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "middle"), [("cosine", 0.5 * (1e-3 + 1e-6)), ("exponential", np.sqrt(1e-3 * 1e-6))]
)
def test_schedules_over_all_epochs(tmp_path, schedule, middle):
    run = trainer(tmp_path, schedule=schedule)
    rates = []
    for step in (0, 8, 16):  # of 4 epochs of 4 steps
        run.step = step
        rates.append(run._scheduled_rate())
    np.testing.assert_allclose(rates, [1e-3, middle, 1e-6], rtol=1e-12)


def test_warm_up_rises_linearly_from_a_fifth(tmp_path):
    run = trainer(tmp_path, warmup_steps=10, warmup_factor=0.2)
    factors = []
    for step in (0, 5, 10, 11):
        run.step = step
        factors.append(run._warmup())
    np.testing.assert_allclose(factors, [0.2, 0.6, 1.0, 1.0], rtol=1e-12)


def test_averaged_weights_against_the_formula(tmp_path):
    """w <- d w + (1 - d) new with d = min(decay, (1 + n) / (10 + n)); the first weights are taken as they are."""
    run = trainer(tmp_path, ema_decay=0.25, sizes=(4, 8, 0), max_epochs=6)
    seen = []
    run.run(on_epoch=lambda one, _: seen.append(one.force_field.network.output_1.weight.detach().clone()))
    wanted = seen[0]
    for n, new in enumerate(seen[1:], start=1):
        decay = min(0.25, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * new
    np.testing.assert_allclose(run.evaluated.network.output_1.weight.detach(), wanted, rtol=1e-6)
    assert run.evaluated is not run.force_field


def test_ema_update_by_hand():
    averaged = [torch.tensor([1.0])]
    ema_update(0.999)(averaged, [torch.tensor([3.0])], torch.tensor(1))
    assert averaged[0].item() == pytest.approx(1.0 * 2 / 11 + 3.0 * 9 / 11)
    averaged = [torch.tensor([1.0])]
    ema_update(0.999)(averaged, [torch.tensor([3.0])], 10**6)
    assert averaged[0].item() == pytest.approx(1.0 * 0.999 + 3.0 * 0.001)


def test_a_limit_of_steps_ends_run_and_schedule(tmp_path):
    """10 steps of 4 to the epoch: the third epoch is the last, and its end that of the schedule."""
    run = trainer(tmp_path, max_steps=10, max_epochs=50, final_learning_rate=1e-5)
    assert run.last_epoch == 3
    run.run()
    assert [int(row["step"]) for row in read_log(tmp_path)] == [4, 8, 12]
    assert run._scheduled_rate() == pytest.approx(1e-5)


@pytest.mark.parametrize("kind", ["mse", "mae", "l2"])
def test_normalized_labels_by_hand(tmp_path, kind):
    """Errors divided by the RMS force of the training frames; energies have a loss of their own."""
    run = trainer(tmp_path, loss=kind, energy_loss="mse", normalize_labels=True, learn_scale=False)
    places = torch.tensor([0, 3, 5])
    loss, _, _ = run.loss(run.force_field, run.training, places, training=True)
    frames = few_frames().select(run.split.train)
    unit = np.sqrt(np.mean(frames.forces**2))
    assert float(run.force_field.scale) == pytest.approx(unit, rel=1e-12)
    frames = frames.select(places.numpy())
    energies, forces = predict(run.force_field, frames)
    error = (forces - frames.forces) / unit
    force = {
        "mse": np.mean(error**2),
        "mae": np.mean(np.abs(error)),
        "l2": np.sqrt((error**2).sum(-1)).mean(),
    }
    wanted = 0.05 * np.mean(((energies - frames.energies) / unit) ** 2) + 0.95 * force[kind]
    assert loss.item() == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("kind", ["mse", "mae", "l2"])
def test_the_loss_by_hand(tmp_path, kind, power):
    run = trainer(
        tmp_path, loss=kind, energy_atom_power=power, energy_weight=(0.05, 0.05), force_weight=(0.95, 0.95)
    )
    places = torch.tensor([0, 3, 5])
    loss, _, _ = run.loss(run.force_field, run.training, places, training=True)
    frames = few_frames().select(run.split.train[places.numpy()])
    energies, forces = predict(run.force_field, frames)
    energy_error, force_error = energies - frames.energies, forces - frames.forces
    if kind == "mse":
        energy, force = np.mean(energy_error**2), np.mean(force_error**2)
    else:
        energy = np.mean(np.abs(energy_error))
        force = np.mean(np.abs(force_error) if kind == "mae" else np.sqrt((force_error**2).sum(-1)))
    assert loss.item() == pytest.approx(0.05 * energy / 9**power + 0.95 * force, rel=2e-3)


def test_random_rotations_turn_frames_and_forces_together(tmp_path):
    """An equivariant network learns the same from turned frames; each epoch turns them anew."""
    runs = [
        trainer(tmp_path / str(turn), random_rotations=turn, learning_rate=1e-12) for turn in (False, True)
    ]
    losses = [[run.train_epoch() for _ in range(2)] for run in runs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    places = torch.tensor([3, 5])
    matrices = torch.as_tensor(Rotation.random(2, random_state=0).as_matrix()).float()
    batches = runs[1].training
    still, moved = batches(places), batches(places, matrices)
    n_pairs = still.pair_vectors.size(0) // 2
    wanted = still.pair_vectors[still.pair_index[0] >= 9].numpy() @ matrices[1].numpy().T
    np.testing.assert_allclose(moved.pair_vectors[moved.pair_index[0] >= 9], wanted, atol=1e-5)
    assert moved.pair_vectors.size(0) == 2 * n_pairs
    assert not torch.allclose(moved.pair_vectors, still.pair_vectors, atol=0.1)
    forces = turned(batches.data.forces[places], matrices)
    np.testing.assert_allclose(
        forces[0, 2], matrices[0].numpy() @ batches.data.forces[3, 2].numpy(), rtol=1e-4, atol=1e-5
    )


def test_the_optimizer_takes_the_recipe(tmp_path):
    run = trainer(tmp_path, weight_decay=0.25, epsilon=1e-7, amsgrad=True)
    (group,) = run.optimizer.param_groups
    assert (group["weight_decay"], group["eps"], group["amsgrad"]) == (0.25, 1e-7, True)


def test_weights_of_the_losses_follow_the_rate(tmp_path):
    """DeePMD-kit's prefactors: limit + (start - limit) rate / start rate."""
    run = trainer(tmp_path, energy_weight=(1.0, 400.0), force_weight=(1000.0, 1.0))
    places = torch.tensor([0])
    terms = []
    for energy, force in (((1.0, 1.0), (0.0, 0.0)), ((0.0, 0.0), (1.0, 1.0))):
        run.recipe = dataclasses.replace(run.recipe, energy_weight=energy, force_weight=force)
        terms.append(run.loss(run.force_field, run.training, places, training=False)[0].item())
    run.recipe = dataclasses.replace(run.recipe, energy_weight=(1.0, 400.0), force_weight=(1000.0, 1.0))
    run.optimizer.param_groups[0]["lr"] = 0.25e-3
    found = run.loss(run.force_field, run.training, places, training=False)[0].item()
    assert found == pytest.approx(300.25 * terms[0] + 250.75 * terms[1], rel=1e-5)


def test_reference_energies_reproduce_the_mean():
    frames = few_frames()
    reference = fit_reference_energies(frames)
    assert reference[frames.atomic_numbers].sum() == pytest.approx(frames.energies.mean(), rel=1e-13)
    assert np.flatnonzero(reference).tolist() == [1, 6, 8]


@pytest.mark.parametrize(
    ("model", "hyperparameters", "rate", "part"),
    [
        ("schnet", {"hidden": 32, "filters": 32, "interactions": 3}, 3e-3, 0.03),
        ("deeppot-se", {"embedding": (12, 24, 48), "axis": 6, "fitting": (64, 64)}, 1e-2, 0.3),
    ],
    ids=["schnet", "deeppot-se"],
)
def test_a_few_frames_are_learned(tmp_path, model, hyperparameters, rate, part):
    run = trainer(
        tmp_path, model=model, hyperparameters=hyperparameters, frames=few_frames(8), sizes=(6, 2, 0),
        max_epochs=80, learning_rate=rate, batch_size=2, ema_decay=0.0,
    )  # fmt: skip
    run.run()
    rows = read_log(tmp_path)
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < part * losses[0]


def test_training_without_energies_and_in_a_cell(tmp_path):
    frames = few_frames()
    cells = np.tile(9.0 * np.eye(3), (frames.n_frames, 1, 1))
    frames = dataclasses.replace(frames, energies=None, cells=cells)
    run = trainer(tmp_path, frames=frames, max_epochs=2)
    run.run()
    record = load_checkpoint(tmp_path / "best.pt")
    assert json.loads(record["provenance"])["periodic"]
    energies, forces = predict(force_field_from_checkpoint(record), frames)
    assert np.isfinite(energies).all()
    assert forces.shape == frames.forces.shape


def test_what_cannot_be_trained_on(tmp_path):
    frames = few_frames()
    with pytest.raises(TrainingError, match="has no forces"):
        trainer(tmp_path, frames=dataclasses.replace(frames, forces=None))
    with pytest.raises(TrainingError, match="no validation frames"):
        trainer(tmp_path, sizes=(16, 0, 8))
    with pytest.raises(ModelError, match="hyperparameters of schnet"):
        trainer(tmp_path, hyperparameters={"hiden": 3})


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_elements_without_weights_are_refused(name):
    heaviest = ARCHITECTURES[name].heaviest
    network = build_network(name, fresh_models.TINY[name], [1, heaviest]).eval()
    numbers, pairs = torch.tensor([1, heaviest]), torch.tensor([[0], [1]])
    vectors = torch.tensor([[0.0, 0.0, 1.5]])
    topology = network.topology(numbers, pairs)
    found = (
        network.energies_and_forces(vectors, topology)[1]
        if network.direct
        else network(numbers, vectors, pairs)
    )
    assert torch.isfinite(found).all()
    if heaviest < 118:
        with pytest.raises(ModelError, match=f"{name} has weights for atomic numbers up to {heaviest}, got"):
            build_network(name, fresh_models.TINY[name], [1, heaviest + 1])


def test_validation_errors_that_are_not_finite_end_the_run_and_reach_no_file(tmp_path):
    run = trainer(tmp_path)

    def spoil(*_):
        # The last step of an epoch whose mean loss is finite.
        with torch.no_grad():
            next(iter(run.evaluated.parameters())).fill_(float("nan"))

    validate, epochs = run.validate, []

    def validate_and_spoil():
        epochs.append(1)
        if len(epochs) == 2:
            spoil()
        return validate()

    run.validate = validate_and_spoil
    with pytest.raises(TrainingError, match=r"after epoch 2 the errors on validation frames are not finite"):
        run.run()
    for name in ("best.pt", "last.pt"):
        weights = load_checkpoint(tmp_path / name)["evaluated"]
        assert all(torch.isfinite(value).all() for value in weights.values())
    assert len(read_log(tmp_path)) == 1


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    run = trainer(tmp_path)
    run.train_epoch = lambda: float("nan")
    with pytest.raises(TrainingError, match=r"the loss of epoch 1 is nan; .* lower --learning-rate"):
        run.run()


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.98])
def test_truncated_checkpoints(tmp_path, keep):
    trainer(tmp_path, max_epochs=1).run()
    path = tmp_path / "best.pt"
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep in {0, 1} else int(keep * len(content))])
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        load_checkpoint(path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_with_code_is_refused_unrun(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    if how == "torch":
        torch.save({"format": 1, "recipe": Payload()}, "evil.pt")
    else:
        with open("evil.pt", "wb") as file:
            pickle.dump({"format": 1, "recipe": Payload()}, file)
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        load_checkpoint("evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(TrainingError, match="not a checkpoint of this package"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save({"format": 1}, tmp_path / "partial.pt")
    with pytest.raises(TrainingError, match="not a checkpoint of this package"):
        load_checkpoint(tmp_path / "partial.pt")


def test_recipes():
    recipe = recipe_for("schnet", "paper")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert recipe.with_overrides(max_epochs=None, seed=3).seed == 3
    for call, message in (
        (lambda: Recipe(model="schnet", schedule="step"), "schedule 'step' is not known"),
        (lambda: Recipe(model="schnet", energy_loss="huber"), "energy_loss 'huber' is not known"),
        (lambda: Recipe(model="schnet", batch_size=0), "batch_size is 0; it must be positive"),
        (lambda: Recipe.from_dict({"model": "schnet", "epochs": 3}), "unknown keys epochs"),
    ):
        with pytest.raises(TrainingError, match=message):
            call()
