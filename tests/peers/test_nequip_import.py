"""A NequIP model, trained and compiled by nequip, imported."""

import pytest
from imported_models import compare, imported, runs_alone
from tiny_data import run, write_frames

# The data of `nequip-train`, as its documentation lays it out; `{dtype}` and `{extra}` are ours.
CONFIG = """
run: [train]
cutoff_radius: 4.0
model_type_names: [H, C, O]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  split_dataset: {{file_path: train.extxyz, train: 18, val: 6}}
  ase_args: {{format: extxyz}}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${{model_type_names}}
    - _target_: nequip.data.transforms.NeighborListTransform
      r_max: ${{cutoff_radius}}
  key_mapping: {{REF_energy: total_energy, REF_forces: forces}}
  train_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 6}}
  val_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 6}}
  stats_manager:
    _target_: nequip.data.CommonDataStatisticsManager
    type_names: ${{model_type_names}}
    dataloader_kwargs: {{batch_size: 6}}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 2
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - {{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: ., save_last: true}}
training_module:
  _target_: nequip.train.EMALightningModule
  loss:
    _target_: nequip.train.EnergyForceLoss
    per_atom_energy: true
    coeffs: {{total_energy: 1.0, forces: 1.0}}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {{total_energy_mae: 1.0, forces_mae: 1.0}}
  train_metrics: ${{training_module.val_metrics}}
  optimizer: {{_target_: torch.optim.Adam, lr: 0.01}}
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 1
    model_dtype: {dtype}
    type_names: ${{model_type_names}}
    r_max: ${{cutoff_radius}}
    num_bessels: 4
    l_max: 1
    parity: true
    num_layers: 2
    num_features: 4
    radial_mlp_depth: 1
    radial_mlp_width: 8
    avg_num_neighbors: ${{training_data_stats:num_neighbors_mean}}
    per_type_energy_shifts: ${{training_data_stats:per_atom_energy_mean}}
    per_type_energy_scales: ${{training_data_stats:forces_rms}}
{extra}"""
# A repulsive pair term, and reaches that differ by the pair of elements, not symmetrically.
EXTRA = """    pair_potential: {_target_: nequip.nn.pair_potential.ZBL, units: metal, chemical_species: [H, C, O]}
    per_edge_type_cutoff: {H: 2.2, C: {H: 3.5, C: 4.0, O: 3.1}, O: 3.8}
"""


def trained(folder, dtype="float64", extra=""):
    write_frames(folder / "train.extxyz")
    (folder / "config.yaml").write_text(CONFIG.format(dtype=dtype, extra=extra))
    run("-m", "nequip.scripts.train", "-cp", folder, "-cn", "config", cwd=folder)
    compiled = folder / "tiny.nequip.pth"
    run(
        "-m",
        "nequip.scripts.compile",
        "last.ckpt",
        compiled,
        "--mode",
        "torchscript",
        "--device",
        "cpu",
        cwd=folder,
    )
    return compiled


def calculator(compiled):
    from nequip.integrations.ase import NequIPCalculator

    return NequIPCalculator.from_compiled_model(
        compiled, device="cpu", chemical_species_to_atom_type_map=True
    )


@pytest.mark.parametrize(
    ("name", "dtype", "extra", "tolerance"),
    [
        ("nequip-import", "float64", "", 1e-5),
        ("nequip-import-zbl", "float64", EXTRA, 1e-5),
        ("nequip-import-float32", "float32", "", 1e-5),
    ],
)
def test_a_compiled_model(tmp_path, name, dtype, extra, tolerance):
    compiled = trained(tmp_path, dtype, extra)
    potential = imported(compiled, "nequip", tmp_path / "nequip.pt")
    assert potential.card.dtype == dtype
    assert potential.card.species == [1, 6, 8]
    assert potential.card.cutoff_A == 4.0
    compare(
        name,
        potential,
        calculator(compiled),
        kind="nequip",
        theirs="nequip.integrations.ase.NequIPCalculator",
        packages=["nequip", "e3nn"],
        note="with ZBL and cutoffs by pair of elements" if extra else "",
        tolerance=tolerance,
        dtype=dtype,
    )
    if not extra:
        runs_alone(potential)
