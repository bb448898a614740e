"""SchNet and PaiNN, trained by schnetpack, imported."""

import contextlib

import ase
import numpy as np
import pytest
import schnetpack
import torch
from imported_models import compare, imported, runs_alone
from pytorch_lightning import Trainer, seed_everything
from schnetpack.data import ASEAtomsData, AtomsDataModule
from schnetpack.interfaces import SpkCalculator
from schnetpack.transform import AddOffsets, ASENeighborList, CastTo32, CastTo64, RemoveOffsets
from tiny_data import frames

EV_PER_KCALMOL = 1 / 23.060548
CUTOFF = 4.0


def data_module(folder):
    chosen = frames()
    dataset = ASEAtomsData.create(
        str(folder / "data.db"),
        distance_unit="Ang",
        property_unit_dict={"energy": "kcal/mol", "forces": "kcal/mol/Ang"},
    )
    dataset.add_systems(
        [
            {
                "energy": np.array([atoms.info["REF_energy"] / EV_PER_KCALMOL]),
                "forces": atoms.arrays["REF_forces"] / EV_PER_KCALMOL,
            }
            for atoms in chosen
        ],
        [ase.Atoms(atoms.numbers, atoms.positions) for atoms in chosen],
    )
    module = AtomsDataModule(
        str(folder / "data.db"),
        batch_size=6,
        num_train=18,
        num_val=6,
        split_file=str(folder / "split.npz"),
        transforms=[ASENeighborList(cutoff=CUTOFF), RemoveOffsets("energy", remove_mean=True), CastTo32()],
        num_workers=0,
    )
    # It leaves a lock file in the working directory.
    with contextlib.chdir(folder):
        module.prepare_data()
        module.setup()
    return module


def potential_of(kind):
    """Shaped like what its tutorial builds for MD17, only smaller."""
    radial = schnetpack.nn.GaussianRBF(n_rbf=10, cutoff=CUTOFF)
    representations = {
        "SchNet": schnetpack.representation.SchNet,
        "PaiNN": schnetpack.representation.PaiNN,
    }
    return schnetpack.model.NeuralNetworkPotential(
        representation=representations[kind](
            n_atom_basis=16,
            n_interactions=2,
            radial_basis=radial,
            cutoff_fn=schnetpack.nn.CosineCutoff(CUTOFF),
        ),
        input_modules=[schnetpack.atomistic.PairwiseDistances()],
        output_modules=[
            schnetpack.atomistic.Atomwise(n_in=16, output_key="energy"),
            schnetpack.atomistic.Forces(energy_key="energy", force_key="forces"),
        ],
        postprocessors=[CastTo64(), AddOffsets("energy", add_mean=True)],
    )


def trained(folder, kind):
    seed_everything(1)
    model = potential_of(kind)
    outputs = [
        schnetpack.task.ModelOutput(name=name, loss_fn=torch.nn.MSELoss(), loss_weight=weight, metrics={})
        for name, weight in (("energy", 0.01), ("forces", 0.99))
    ]
    task = schnetpack.task.AtomisticTask(
        model=model, outputs=outputs, optimizer_cls=torch.optim.AdamW, optimizer_args={"lr": 1e-3}
    )
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        callbacks=[
            schnetpack.train.ModelCheckpoint(
                model_path=str(folder / "best_model"), save_top_k=1, monitor="val_loss", dirpath=str(folder)
            )
        ],
    )
    trainer.fit(task, datamodule=data_module(folder))
    return folder / "best_model"


@pytest.fixture(scope="module", params=["SchNet", "PaiNN"])
def file(request, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("schnetpack"), request.param)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_best_model(file, tmp_path, dtype, request, monkeypatch):
    # Its calculator opens the file as older versions of torch do.
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *given, **named: load(*given, **{**named, "weights_only": False})
    )
    potential = imported(
        file, "schnetpack", tmp_path / "spk.pt", dtype=dtype, energy_unit="kcal/mol", length_unit="A",
        elements=["H", "C", "O"],
    )  # fmt: skip
    assert potential.card.dtype == dtype
    assert potential.card.cutoff_A == CUTOFF
    kind = request.node.callspec.params["file"]
    theirs = SpkCalculator(
        model_file=str(file),
        neighbor_list=ASENeighborList(cutoff=CUTOFF),
        energy_unit="kcal/mol",
        position_unit="Ang",
        dtype={"float32": torch.float32, "float64": torch.float64}[dtype],
    )
    compare(
        f"schnetpack-import-{kind.lower()}" + ("" if dtype == "float64" else "-float32"),
        potential,
        theirs,
        kind="schnetpack",
        theirs=f"schnetpack.interfaces.SpkCalculator ({kind})",
        packages=["schnetpack"],
        note="kcal/mol by another CODATA in ASE: 8e-9",
        dtype=dtype,
    )
    if dtype == "float64":
        runs_alone(potential)
