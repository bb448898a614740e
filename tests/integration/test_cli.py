"""The command line: every command explains itself, and every mistake is one line and exit code 2."""

import contextlib
import dataclasses
import itertools
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import fresh_models
import numpy as np
import pytest
import torch
import typer

from openmm_mlbench import __version__, cli, workflow
from openmm_mlbench.data.readers import read_npz, write_npz
from openmm_mlbench.export.archive import list_archives, read_card
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.reference_potentials import REFERENCE_POTENTIALS
from openmm_mlbench.workflow import DEMO_MODELS


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    found = capsys.readouterr()
    return stop.value.code or 0, found.out, found.err


def succeed(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return out


def fail(capsys, *arguments):
    """The one line of a user's mistake."""
    code, out, err = run(capsys, *arguments)
    assert code == 2, (code, out, err)
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err.strip()


@contextlib.contextmanager
def small_disk(limit=20_000):
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return fresh_models.write_archive(tmp_path_factory.mktemp("archive") / "schnet.pt")


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Forty frames as a file of the user's own."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    frames = dataclasses.replace(fresh_models.ethanol()[0].select(np.arange(40)), name="mine")
    write_npz(frames, path)
    return path


# ---- what works ----


def commands():
    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield (*path, name)
            yield from walk(child, (*path, name))

    return list(walk(typer.main.get_command(cli.app), ()))


@pytest.mark.parametrize("command", [(), *commands()], ids=" ".join)
def test_every_command_explains_itself(capsys, command):
    out = succeed(capsys, *command, "--help")
    assert "Usage" in out
    assert "--help" in out


def test_the_commands_of_the_design_are_there():
    names = {" ".join(command) for command in commands()}
    assert names >= {
        "systems", "models", "protocols", "data generate", "data inspect", "data convert", "train", "export",
        "check", "simulate", "analyze", "report", "demo", "export-openmm", "doctor",
    }  # fmt: skip


def test_as_a_module_and_as_a_program():
    for program in (
        [sys.executable, "-m", "openmm_mlbench.cli"],
        [Path(sys.executable).parent / "openmm-mlbench"],
    ):
        result = subprocess.run([*program, "--version"], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout) == (0, f"openmm-mlbench {__version__}\n"), result.stderr


def test_lists(capsys):
    assert "ethanol-gfn2" in succeed(capsys, "systems")
    assert "langevin" in succeed(capsys, "protocols")
    lines = succeed(capsys, "models").splitlines()
    tables = (ARCHITECTURES, list_archives(), REFERENCE_POTENTIALS)
    assert len(lines) == sum(1 + len(entries) for entries in tables) + 2
    for name in itertools.chain(*tables):
        assert any(line.startswith(name) for line in lines)


def test_doctor(capsys):
    out = succeed(capsys, "doctor")
    for words in (
        f"openmm-mlbench  {__version__}",
        "Reference",
        "torchforce: ",
        "auto runs on",
        "C++ compiler",
        "CUDA graphs",
    ):
        assert words.replace("  ", " ") in " ".join(out.split())
    assert "PROBLEM" not in out


def test_doctor_without_torch():
    code = "import sys; sys.modules['torch'] = None; from openmm_mlbench.cli import main; main(['doctor'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == ""
    assert "torch does not import" in result.stdout
    assert "PROBLEM" in result.stdout


def test_data_inspect_and_convert(capsys, npz, tmp_path):
    out = succeed(capsys, "data", "inspect", npz)
    assert "40" in out
    assert "9: C2H6O" in out
    for name in ("copy.npz", "copy.h5"):
        succeed(capsys, "data", "convert", npz, tmp_path / name)
        copied = succeed(capsys, "data", "inspect", tmp_path / name)
        # Columns are as wide as the file's name.
        assert [line.split() for line in copied.splitlines()[1:]] == [
            line.split() for line in out.splitlines()[1:]
        ]


def test_the_whole_road(capsys, tmp_path):
    """train, export, check, simulate, analyze, report, export-openmm: each takes what the one before left."""
    folder, model, trajectory = tmp_path / "training", tmp_path / "model.pt", tmp_path / "run"
    sizes = ("--train-frames", 20, "--validation-frames", 5, "--test-frames", 7)
    out = succeed(
        capsys,
        "train",
        "schnet",
        "ethanol-gfn2",
        "-o",
        folder,
        *sizes,
        "--epochs",
        2,
        "--device",
        "cpu",
        "--seed",
        3,
    )
    assert f"{folder / 'best.pt'}: validation force MAE" in out
    out = succeed(capsys, "export", folder / "best.pt", "-o", model)
    card = read_card(model)
    assert card.errors["n_test"] == 7
    assert f"{card.errors['force_mae_meV_A']:.1f} meV/A" in out
    assert card.training["command"].startswith("openmm-mlbench ")
    assert (card.trained_on.n_train, card.trained_on.split_seed) == (20, 3)
    out = succeed(capsys, "check", model)
    assert "FAILED" not in out
    assert "in OpenMM against eager" in out
    out = succeed(
        capsys, "simulate", "ethanol", "--model", model, "-o", trajectory, "--replicas", 2, "--length", 0.1
    )
    assert f"{trajectory}: replica 1: " in out
    out = succeed(capsys, "analyze", trajectory)
    metrics = json.loads((trajectory / "metrics.json").read_text())
    results = {r["name"]: r for m in metrics["measurements"] for r in m["results"]}
    assert results["force_mae"]["value"] == pytest.approx(card.errors["force_mae_meV_A"], rel=1e-4)
    assert "force_mae" in out
    out = succeed(capsys, "report", trajectory, "-o", tmp_path / "report.html")
    assert out.strip() == str(tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    out = succeed(
        capsys, "export-openmm", "ethanol", "--model", model, "-o", tmp_path / "plain", "--length", 0.05
    )
    assert out.strip() == str(tmp_path / "plain" / "run.py")


def test_a_file_of_ones_own(capsys, npz, tmp_path):
    """Data that no list knows: everything works with --data, and says so without."""
    folder, model = tmp_path / "training", tmp_path / "model.pt"
    sizes = ("--train-frames", 20, "--validation-frames", 10, "--test-frames", 10)
    succeed(capsys, "train", "deeppot-se", npz, "-o", folder, *sizes, "--epochs", 1, "--device", "cpu")
    assert "not measured" in succeed(capsys, "export", folder / "best.pt", "-o", model)
    before = model.read_bytes()
    line = fail(capsys, "export", folder / "best.pt", "-o", model, "--data", npz)
    assert f"{model} exists; give another name, or --overwrite to replace it" in line
    assert model.read_bytes() == before
    succeed(capsys, "export", folder / "best.pt", "-o", model, "--data", npz, "--overwrite")
    assert read_card(model).errors["n_test"] == 10
    line = fail(capsys, "simulate", "ethanol", "--model", model, "-o", tmp_path / "run")
    assert "trained on 'mine', which is no data set of this package; give its file with --data" in line
    assert not (tmp_path / "run").exists()
    assert "give one with --structure" in fail(capsys, "check", model)
    run_options = ("-o", tmp_path / "run", "--replicas", 1, "--length", 0.05, "--data", npz)
    succeed(capsys, "simulate", "ethanol", "--model", model, *run_options)
    succeed(capsys, "analyze", tmp_path / "run", "--data", npz)
    other = dataclasses.replace(read_npz(npz), energies=None)
    write_npz(other, tmp_path / "other.npz")
    line = fail(capsys, "analyze", tmp_path / "run", "--data", tmp_path / "other.npz")
    assert "not the frames that the model was trained on" in line


def test_the_demo_at_toy_length(capsys, tmp_path, monkeypatch):
    models = DEMO_MODELS
    if not set(models) <= set(list_archives()):
        models = tuple(
            str(fresh_models.write_archive(tmp_path / f"{name}.pt", name)) for name in fresh_models.TINY
        )
    toy = dataclasses.replace(load_protocol("ethanol"), demo_length_ps=0.1)
    monkeypatch.setattr(workflow, "DEMO_MODELS", models)
    monkeypatch.setattr("openmm_mlbench.protocol.load_protocol", lambda _: toy)
    out = succeed(capsys, "demo", "-o", tmp_path / "demo", "--jobs", 1)
    assert out.strip() == str(tmp_path / "demo" / "report.html")
    page = (tmp_path / "demo" / "report.html").read_text()
    assert all(name in page for name in ("schnet", "deeppot-se", "h(r)"))
    # Again: finished runs are kept.
    succeed(capsys, "demo", "-o", tmp_path / "demo", "--jobs", 1)


# ---- what does not ----


def test_unknown_names(capsys, tmp_path, archive):
    out = ("-o", tmp_path / "out")
    table = {
        (
            "train",
            "painn",
            "ethanol-gfn2",
            *out,
        ): "model 'painn' has no recipe; use one of schnet, deeppot-se",
        ("train", "schnet", "ethanol-gfn", *out): "did you mean ethanol-gfn2?",
        ("train", "schnet", "ethanol-gfn2", *out, "--recipe", "huge"): "recipe 'huge' of schnet is not known",
        ("train", "schnet", "ethanol-gfn2", *out, "--labels", "md17"): "has its own labels, 'md17' was asked",
        ("check", "ethanol/none"): "model 'ethanol/none' is neither a file nor a shipped model",
        ("simulate", "methanol", "--model", archive, *out): "methanol",
        ("simulate", "ethanol", "--model", "ethanol/painn", *out): "model 'ethanol/painn' is neither",
        ("simulate", "ethanol", "--model", archive, *out, "--platform", "TPU"): "platform 'TPU' is not here",
        ("data", "inspect", "benzene"): "data set 'benzene' is not known",
        ("data", "generate", "benzene", *out): "benzene",
        ("analyze", tmp_path): "holds no run.json",
        ("report", tmp_path, *out): "error: ",
        ("export", tmp_path / "none.pt", *out): "does not exist; give the best.pt",
        ("export-openmm", "ethanol", "--model", "none", *out): "model 'none' is neither",
    }
    for arguments, words in table.items():
        assert words in fail(capsys, *arguments), arguments
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--batch-size", 0, "batch_size is 0; it must be positive"),
        ("--learning-rate", -1, "learning_rate is -1.0; it must be positive"),
        ("--epochs", 0, "max_epochs is 0; it must be positive"),
        ("--train-frames", 5000, "cannot be split into 5000 train"),
        ("--train-frames", 0, "train needs 1 or more"),
        ("--seed", -1, "seed"),
        ("--threads", 0, "threads"),
        ("--device", "tpu", "device 'tpu' is not known"),
    ],
)
def test_numbers_that_make_no_sense_in_training(capsys, tmp_path, option, value, words):
    line = fail(
        capsys, "train", "schnet", "ethanol-gfn2", "-o", tmp_path / "out", "--train-frames", 20, option, value
    )
    assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--replicas", 0, "replicas"),
        ("--length", 0.033, "is not a whole number of frames"),
        ("--length", -1, "is not a whole number of frames"),
        ("--jobs", 0, "jobs"),
        ("--threads", 0, "threads"),
        ("--seed", -1, "seed"),
        ("--data", "/nowhere.npz", "/nowhere.npz"),
    ],
)
def test_numbers_that_make_no_sense_in_a_simulation(capsys, tmp_path, archive, option, value, words):
    line = fail(capsys, "simulate", "ethanol", "--model", archive, "-o", tmp_path / "out", option, value)
    assert words in line
    assert not (tmp_path / "out").exists()


def damaged_npz(kind, npz, folder):
    content = npz.read_bytes()
    path = folder / f"{kind}.npz"
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an npz")
    else:
        with np.load(npz) as file:
            arrays = dict(file)
        if kind == "nan":
            arrays["forces"][3, 2, 1] = np.nan
        elif kind == "shape":
            arrays["forces"] = arrays["forces"][:, :-1]
        elif kind == "units":
            arrays["forces"] = arrays["forces"] * 1e4
        elif kind == "pickle":
            arrays["energies"] = np.array([{"a": 1}], dtype=object)
        np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "truncated"),
        ("empty", "empty"),
        ("text", "text"),
        ("nan", "forces hold NaN or Infinity in 1 frames, first in frame 3"),
        ("shape", "forces have shape (40, 8, 3); wanted (40, 9, 3)"),
        ("units", "unit"),
        ("pickle", "pickle"),
    ],
)
def test_damaged_data(capsys, npz, tmp_path, kind, words):
    path = damaged_npz(kind, npz, tmp_path)
    for arguments in (
        ("data", "inspect", path),
        ("data", "convert", path, tmp_path / "out.h5"),
        ("train", "schnet", path, "-o", tmp_path / "out", "--train-frames", 20),
    ):
        line = fail(capsys, *arguments)
        assert words in line
        assert str(path) in line
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_label_sets(capsys, tmp_path):
    frames, _ = fresh_models.ethanol()
    path = tmp_path / "md17.npz"
    np.savez(
        path,
        z=frames.atomic_numbers,
        R=frames.positions[:20],
        E=frames.energies[:20] * 23.06,
        F=frames.forces[:20] * 23.06,
    )
    assert "say which labels, one of md17, rmd17 (--labels)" in fail(capsys, "data", "inspect", path)
    line = fail(capsys, "data", "inspect", path, "--labels", "dft")
    assert "'dft'" in line
    assert "md17" in line
    assert "frames" in succeed(capsys, "data", "inspect", path, "--labels", "md17")
    line = fail(
        capsys, "train", "schnet", path, "-o", tmp_path / "out", "--train-frames", 5, "--labels", "dft"
    )
    assert "'dft'" in line
    out = tmp_path / "out.csv"
    assert "ending '.csv' cannot be written" in fail(capsys, "data", "convert", path, out, "--labels", "md17")


def test_a_file_without_a_split_or_with_a_name_of_ours(capsys, npz, tmp_path):
    out = ("-o", tmp_path / "out")
    assert "has no default split; give --size, or --train-frames" in fail(
        capsys, "train", "schnet", npz, *out
    )
    write_npz(dataclasses.replace(read_npz(npz), name="ethanol"), tmp_path / "x.npz")
    line = fail(capsys, "train", "schnet", tmp_path / "x.npz", *out, "--train-frames", 20)
    assert "calls itself ethanol, which is the name of a data set of this package" in line
    line = fail(
        capsys,
        "train",
        "schnet",
        npz,
        *out,
        "--train-frames",
        39,
        "--validation-frames",
        0,
        "--test-frames",
        1,
    )
    assert "no validation frames" in line


def test_damaged_archives_and_checkpoints(capsys, tmp_path, archive):
    content = archive.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(content[:-500])
    for arguments in (
        ("check", cut),
        ("simulate", "ethanol", "--model", cut, "-o", tmp_path / "out"),
        ("export-openmm", "ethanol", "--model", cut, "-o", tmp_path / "out"),
    ):
        assert "not a complete TorchScript archive" in fail(capsys, *arguments)
    # Whole as a zip, but not as a model.
    hollow = tmp_path / "hollow.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(hollow, "w") as target:
        for item in source.infolist():
            if "/code/" not in item.filename:
                target.writestr(item, source.read(item))
    assert "cannot be loaded as TorchScript" in fail(capsys, "check", hollow)
    checkpoint = tmp_path / "last.pt"
    torch.save({"format": 1, "recipe": os.path.join}, checkpoint)
    for damage in (pickle.dumps(os.system), checkpoint.read_bytes(), checkpoint.read_bytes()[:-100], content):
        checkpoint.write_bytes(damage)
        line = fail(capsys, "export", checkpoint, "-o", tmp_path / "out.pt")
        assert "not a readable checkpoint" in line
    assert not (tmp_path / "out.pt").exists()
    assert not (tmp_path / "out").exists()


def test_structures_that_do_not_fit(capsys, tmp_path, archive):
    assert "none.pdb" in fail(capsys, "check", archive, "--structure", tmp_path / "none.pdb")
    atom = "ATOM      1  N   LIG A   1       0.000   0.000   0.000  1.00  0.00           N\n"
    other = "ATOM      2  O   LIG A   1       1.200   0.000   0.000  1.00  0.00           O\n"
    (tmp_path / "no.pdb").write_text(f"{atom}{other}END\n")
    assert "does not know the atomic numbers [7]" in fail(
        capsys, "check", archive, "--structure", tmp_path / "no.pdb"
    )
    (tmp_path / "bad.pdb").write_text("hello\n")
    assert "bad.pdb" in fail(capsys, "check", archive, "--structure", tmp_path / "bad.pdb")


PROTOCOL_EDITS = {
    "unknown element": ("<Toy ", "<Thermometer/>\n  <Toy ", "line 8: Element 'Thermometer'"),
    "unknown attribute": ('temperature_K="500" ', 'temperature_K="500" colour="red" ', "line 5"),
    "not well-formed": ("</Observables>", "", "line"),
    "time step": ('timestep_fs="0.5"', 'timestep_fs="5"', "time"),
    "integrator that is not allowed": ("NoseHooverIntegrator", "CustomIntegrator", "CustomIntegrator"),
    "external entity": (
        '<Protocol name="ethanol">',
        '<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<Protocol name="&x;">',
        "external entity 'x'",
    ),
}


@pytest.mark.parametrize("edit", PROTOCOL_EDITS)
def test_protocols_that_are_not_valid(capsys, tmp_path, archive, edit):
    before, after, words = PROTOCOL_EDITS[edit]
    text = (Path(cli.__file__).parent.parent / "protocols" / "ethanol.xml").read_text()
    assert before in text
    path = tmp_path / "my.xml"
    path.write_text(text.replace(before, after))
    line = fail(capsys, "simulate", path, "--model", archive, "-o", tmp_path / "out")
    assert str(path) in line
    assert words in line
    assert "root:" not in line
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_system(capsys, tmp_path):
    """A species that the model has not seen: refused before anything is written."""
    model = fresh_models.write_archive(tmp_path / "m.pt")
    text = (Path(cli.__file__).parent.parent / "protocols" / "ethanol.xml").read_text()
    structure = (Path(cli.__file__).parent.parent / "systems" / "ethanol" / "topology.pdb").read_text()
    (tmp_path / "amine.pdb").write_text(
        "".join(
            line[:76] + " N" + line[78:]
            if line.startswith(("ATOM", "HETATM")) and " O" in line[76:78]
            else line
            for line in structure.splitlines(keepends=True)
        )
    )
    path = tmp_path / "my.xml"
    path.write_text(text.replace('<Structure system="ethanol"/>', '<Structure file="amine.pdb"/>'))
    line = fail(capsys, "simulate", path, "--model", model, "-o", tmp_path / "out")
    assert "error: " in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "below a file", "/proc", "/dev/full"])
def test_places_that_cannot_be_written(capsys, tmp_path, archive, npz, place):
    (tmp_path / "file").write_text("mine")
    out = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "below",
        "/proc": Path("/proc/nothing/here"),
        "/dev/full": Path("/dev/full/here"),
    }[place]
    checkpoint = train_a_little(tmp_path / "training")
    fail(capsys, "train", "schnet", "ethanol-gfn2", "-o", out, "--train-frames", 20, "--epochs", 1)
    fail(capsys, "simulate", "ethanol", "--model", archive, "-o", out, "--replicas", 1, "--length", 0.05)
    fail(capsys, "export-openmm", "ethanol", "--model", archive, "-o", out, "--length", 0.05)
    if place != "file":
        fail(capsys, "export", checkpoint, "-o", out / "model.pt")
        fail(capsys, "data", "convert", npz, out / "x.npz")
        fail(capsys, "data", "convert", npz, out / "x.h5")
    assert (tmp_path / "file").read_text() == "mine"


def train_a_little(folder):
    from openmm_mlbench.data.splits import make_split
    from openmm_mlbench.training.config import Recipe
    from openmm_mlbench.training.trainer import Trainer

    frames, _ = fresh_models.ethanol()
    recipe = Recipe(model="schnet", hyperparameters=fresh_models.TINY["schnet"], max_epochs=1)
    return Trainer(recipe, frames, make_split(frames, 20, 5, 5, 0), folder).run()


def test_a_full_disk_damages_nothing(capsys, tmp_path, npz):
    """Every command that replaces a file leaves the old one, byte for byte, and no rest of the new one."""
    checkpoint = train_a_little(tmp_path / "training")
    targets = {
        "model.pt": ("export", checkpoint, "-o", tmp_path / "model.pt"),
        "copy.npz": ("data", "convert", npz, tmp_path / "copy.npz"),
        "copy.h5": ("data", "convert", npz, tmp_path / "copy.h5"),
    }
    for name, arguments in targets.items():
        succeed(capsys, *arguments)
        before = (tmp_path / name).read_bytes()
        files = sorted(tmp_path.iterdir())
        assert "--overwrite to replace it" in fail(capsys, *arguments)
        with small_disk(2000):
            line = fail(capsys, *arguments, "--overwrite")
        assert "too large" in line or "No space" in line, line
        assert (tmp_path / name).read_bytes() == before
        assert sorted(tmp_path.iterdir()) == files
    folder = tmp_path / "run"
    train = ("train", "schnet", "ethanol-gfn2", "-o", folder, "--train-frames", 20, "--validation-frames", 5)
    with small_disk():
        line = fail(capsys, *train, "--epochs", 2)
    assert "too large" in line
    assert [path for path in folder.iterdir() if path.suffix == ".pt" or ".tmp" in path.name] == []


def test_a_full_temporary_folder(capsys, tmp_path, archive, monkeypatch):
    """openmmtorch would end the process without a word that helps."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    line = fail(capsys, "export-openmm", "ethanol", "--model", archive, "-o", tmp_path / "plain")
    assert "has 0.0 MB left" in line
    assert not (tmp_path / "plain").exists()


def test_training_goes_on_after_a_full_disk(capsys, tmp_path):
    folder = tmp_path / "run"
    train = (
        "train", "schnet", "ethanol-gfn2", "-o", folder, "--train-frames", 10, "--validation-frames", 5,
        "--epochs", 3,
    )  # fmt: skip
    succeed(capsys, *train)
    checkpoints = {name: (folder / name).read_bytes() for name in ("last.pt", "best.pt")}
    with small_disk():
        fail(capsys, *train, "--resume")
    assert {name: (folder / name).read_bytes() for name in checkpoints} == checkpoints
    succeed(capsys, *train, "--resume")


def test_folders_that_are_taken(capsys, tmp_path, archive):
    simulate = (
        "simulate",
        "ethanol",
        "--model",
        archive,
        "-o",
        tmp_path / "run",
        "--replicas",
        1,
        "--length",
        0.05,
    )
    succeed(capsys, *simulate)
    line = fail(capsys, *simulate)
    assert "--resume" in line
    assert "--overwrite" in line
    succeed(capsys, *simulate, "--resume")
    succeed(capsys, *simulate, "--overwrite")
    plain = ("export-openmm", "ethanol", "--model", archive, "-o", tmp_path / "plain", "--length", 0.05)
    succeed(capsys, *plain)
    assert "exists; give another folder" in fail(capsys, *plain)


def test_runs_that_were_damaged_since(capsys, tmp_path, archive):
    folder = tmp_path / "run"
    succeed(
        capsys, "simulate", "ethanol", "--model", archive, "-o", folder, "--replicas", 1, "--length", 0.05
    )
    record = (folder / "run.json").read_text()
    for text in ("{", "[]", json.dumps({**json.loads(record), "model": None})):
        (folder / "run.json").write_text(text)
        assert "run.json" in fail(capsys, "analyze", folder)
        fail(capsys, "analyze", folder, "--data", tmp_path / "x.npz")
    (folder / "run.json").write_text(record)
    # The model is not the one that was simulated any more: its card's error stands in.
    archive_of_run = Path(json.loads(record)["model"]["model"])
    kept = archive_of_run.read_bytes()
    try:
        fresh_models.write_archive(archive_of_run, seed=5)
        succeed(capsys, "analyze", folder)
    finally:
        archive_of_run.write_bytes(kept)
    (folder / "metrics.json").write_text("{")
    assert "metrics.json" in fail(capsys, "report", folder)
