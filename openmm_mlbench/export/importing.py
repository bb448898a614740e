"""Models that other packages trained become archives like our own.

The file is read by the adapter of its kind, wrapped in the contract of exported models, tried on
a structure inside and outside OpenMM, and written with a card that says what was found.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_mlbench import __version__
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.adapters import deepmd, mace, nequip, schnetpack, torchscript
from openmm_mlbench.export.adapters.foreign import KJMOL_PER_ENERGY, LENGTH_PER_NM, Foreign, Stated
from openmm_mlbench.export.adapters.pickled import DISTRIBUTIONS, ask_trust
from openmm_mlbench.export.archive import Archive, save_archive
from openmm_mlbench.export.card import Card, Claims, Origin, TrainedOn
from openmm_mlbench.export.check import CheckRow, check_archive
from openmm_mlbench.export.imported_model import ImportedModel
from openmm_mlbench.export.operators import (
    define_unused,
    import_packages,
    is_registered,
    load_libraries,
    named_operators,
)
from openmm_mlbench.files import sha256_file
from openmm_mlbench.units import (
    ANGSTROM_PER_NM,
    KJMOL_NM_PER_EV_ANGSTROM,
    KJMOL_PER_EV,
    NM_PER_ANGSTROM,
)

READERS: dict[str, Callable[[Path, Stated], Foreign]] = {
    "nequip": nequip.read,
    "mace": mace.read,
    "deepmd": deepmd.read,
    "schnetpack": schnetpack.read,
    "torchscript": torchscript.read,
}
UNKNOWN = "unknown"
NOTHING = Claims(conservative=False, rotation=False, parity=False, zero_net_force=False)
# Line of the check, and the claim that it decides.
_DECIDES = {
    "forces against finite differences (conservative)": "conservative",
    "rotation": "rotation",
    "inversion (parity)": "parity",
    "net force": "zero_net_force",
}
# What a Context may differ by before a model counts as broken by TorchForce.
_IN_OPENMM = "in OpenMM against archive"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An imported model.

    Args:
        card: of the archive that was written.
        rows: of its check.
    """

    card: Card
    rows: list[CheckRow]


def import_model(
    file: str | Path,
    kind: str,
    out: str | Path,
    *,
    stated: Stated,
    trusted: bool = False,
    trained_on: TrainedOn | None = None,
    licence: str = UNKNOWN,
    structure: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Write an archive of a foreign model.

    Args:
        file: of the other package.
        kind: one of :data:`READERS`.
        out: the archive to write.
        stated: what the file does not say.
        trusted: the user's consent to open a pickle.
        trained_on: what the user says of its data, or None for unknown.
        licence: of the weights.
        structure: atomic numbers and positions (n_atoms, 3), A, to try it on; else atoms of its
            species on a grid.
        note: told what a user should know.

    Raises:
        ModelError: the file cannot be read, or runs neither with a box nor without.
    """
    path = Path(file)
    if kind not in READERS:
        raise ModelError(f"kind {kind!r} is not known; use one of {', '.join(READERS)}")
    if not path.is_file():
        raise ModelError(f"{path} does not exist; give the file of a trained model")
    if Path(out).exists() and path.samefile(out):
        raise ModelError(f"{path} would be overwritten by its own import; choose another file for -o")
    sha256 = sha256_file(path)
    if kind in DISTRIBUTIONS:
        ask_trust(path, kind, sha256, trusted=trusted, note=note)
    import_packages(stated.packages, str(path))
    load_libraries(stated.libraries)
    known = {schema.split("(")[0]: schema for schema in deepmd.TABULATED}
    named = named_operators(path)
    unused = [known[name] for name in named if name in known and not is_registered(name)]
    define_unused(unused)
    stubs = {schema.split("(")[0] for schema in unused}
    missing = [name for name in named if not is_registered(name) and name not in stubs]
    if missing:
        raise ModelError(
            f"{path} names the custom operators {', '.join(missing)}, which nothing here brings; give what does with "
            "--needs-package or --needs-library"
        )
    foreign = READERS[kind](path, stated)
    numbers, positions_A = structure or grid_of(foreign.species)
    strange = sorted(set(numbers.tolist()) - set(foreign.species))
    if strange:
        raise ModelError(
            f"the structure holds the atomic numbers {strange}, {path} knows {foreign.species}; give one made of these"
        )
    model = ImportedModel(
        foreign.module,
        cutoff=foreign.cutoff,
        length_per_nm=LENGTH_PER_NM[foreign.length_unit],
        kjmol_per_energy=KJMOL_PER_ENERGY[foreign.energy_unit],
        needs_pairs=foreign.needs_pairs,
        atomic_numbers=torch.as_tensor(numbers),
    ).eval()
    script = _script(model, path)
    open_space, any_box = _serves(script, foreign, positions_A, path)
    card = Card(
        model=kind,
        hyperparameters={},
        n_parameters=foreign.n_parameters,
        species=sorted(foreign.species),
        example_atomic_numbers=numbers.tolist(),
        cutoff_A=foreign.cutoff * ANGSTROM_PER_NM / LENGTH_PER_NM[foreign.length_unit],
        dtype=foreign.dtype,
        periodic=any_box,
        claims=NOTHING,
        trained_on=trained_on or stated_data(),
        versions={"openmm-mlbench": __version__, "torch": str(torch.__version__)},
        licence=licence,
        origin=Origin(
            kind=kind,
            file=path.name,
            sha256=sha256,
            options=_options(stated, foreign),
            versions=foreign.versions,
            open_space=open_space,
            any_box=any_box,
            packages=list(stated.packages),
            operators=[name for name in named if name not in stubs],
            libraries=[Path(library).name for library in stated.libraries],
            unused_operators=unused,
            driver="auto",
            tried_on={"atomic_numbers": numbers.tolist(), "positions_A": positions_A.tolist()},
        ),
    )
    card, rows = _find_out(model, card, numbers, positions_A, note)
    save_archive(model, card, out)
    return Imported(card=card, rows=rows)


def stated_data(dataset: str = UNKNOWN, level_of_theory: str = UNKNOWN, source: str = UNKNOWN) -> TrainedOn:
    """What a user can say of the data behind a model that was trained elsewhere."""
    return TrainedOn(
        dataset=dataset,
        dataset_hash=None,
        split_hash=None,
        split_seed=None,
        n_train=None,
        n_validation=None,
        level_of_theory=level_of_theory,
        source=source,
        constraints="none",
    )


def grid_of(species: list[int], n_atoms: int = 8) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atoms of all species on a jittered grid, a tenth beyond the longest sum of two covalent radii apart.

    Returns:
        Atomic numbers (n_atoms,) and positions (n_atoms, 3), A.
    """
    from ase.data import covalent_radii

    chosen = species[: n_atoms * 4]
    numbers = np.resize(chosen, max(n_atoms, len(chosen)))
    spacing = 2.2 * max(covalent_radii[number] for number in chosen)
    side = int(np.ceil(len(numbers) ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    noise = np.random.default_rng(0).uniform(-0.15, 0.15, (len(numbers), 3))
    return numbers.astype(np.int64), spacing * (grid[: len(numbers)] + noise)


def predict_frames(
    module: torch.jit.ScriptModule, frames: Frames
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energies (n_frames,), eV, and forces (n_frames, n_atoms, 3), eV/A, of an exported module."""
    module.atomic_numbers = torch.as_tensor(np.array(frames.atomic_numbers), dtype=torch.long)
    energies, forces = [], []
    for k, positions in enumerate(frames.positions):
        arguments = [torch.as_tensor(positions * NM_PER_ANGSTROM)]
        if frames.cells is not None:
            arguments.append(torch.as_tensor(frames.cells[k] * NM_PER_ANGSTROM))
        energy, force = module(*arguments)
        energies.append(energy.item() / KJMOL_PER_EV)
        forces.append(force.detach().double().numpy() / KJMOL_NM_PER_EV_ANGSTROM)
    return np.array(energies), np.stack(forces)


def _options(stated: Stated, foreign: Foreign) -> dict[str, Any]:
    """What was stated or taken for granted, for the card."""
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(stated).items()
        if value and name not in {"python", "packages", "libraries"}
    }
    return {**given, "energy_unit": foreign.energy_unit, "length_unit": foreign.length_unit}


def _script(model: ImportedModel, path: Path) -> torch.jit.ScriptModule:
    try:
        return torch.jit.script(model)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit its kind's interface ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    """What went wrong, out of the many lines of TorchScript."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line or "not" in line]
    return (named or lines or [type(error).__name__])[-1][:300]


def _serves(
    script: torch.jit.ScriptModule, foreign: Foreign, positions_A: NDArray[np.float64], path: Path
) -> tuple[bool, bool]:
    """Whether a model runs in open space and in a box."""
    positions = torch.as_tensor(positions_A * NM_PER_ANGSTROM)
    extent = float((positions.max(0).values - positions.min(0).values).max())
    edge = extent + 0.3
    box = edge * torch.tensor([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.3, 1.0]], dtype=torch.float64)
    runs, reasons = [], []
    for name, arguments in (("open", (positions,)), ("periodic", (positions, box))):
        if foreign.only not in {None, name}:
            runs.append(False)
            continue
        try:
            energy, forces = script(*arguments)
            finite = bool(torch.isfinite(energy)) and bool(torch.isfinite(forces).all())
            if forces.shape != positions.shape:
                raise ModelError(
                    f"{path} gives forces of shape {tuple(forces.shape)} for {len(positions)} atoms"
                )
            if not finite:
                reasons.append("energy or forces are not finite")
            runs.append(finite)
        except (RuntimeError, torch.jit.Error) as error:
            runs.append(False)
            reasons.append(_first_line(error))
    if not any(runs):
        raise ModelError(
            f"{path} runs neither with a box nor without ({reasons[0]}); is its signature as stated?"
        )
    return runs[0], runs[1]


def _find_out(
    model: ImportedModel,
    card: Card,
    numbers: NDArray[np.int64],
    positions_A: NDArray[np.float64],
    note: Callable[[str], None],
) -> tuple[Card, list[CheckRow]]:
    """Check it, claim what holds, and fall back on PythonForce where TorchForce changes it."""
    origin = card.origin
    assert origin is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"

        def check(card: Card) -> list[CheckRow]:
            save_archive(model, card, path)
            archive = Archive(id=origin.file, path=path, sha256="", card=card)
            return check_archive(archive, numbers, positions_A * NM_PER_ANGSTROM)

        # First claim everything, so that every line has its tolerance.
        card = dataclasses.replace(card, claims=Claims(**dict.fromkeys(_DECIDES.values(), True)))
        rows = check(card)
        if any(row.name == _IN_OPENMM and not row.passed for row in rows):
            note("TorchForce does not give this model's numbers: it will run by PythonForce, which is slower")
            card = dataclasses.replace(card, origin=dataclasses.replace(origin, driver="pythonforce"))
            rows = check(card)
        held = {_DECIDES[row.name]: row.passed for row in rows if row.name in _DECIDES}
        for row in rows:
            if row.name in _DECIDES and not row.passed:
                note(
                    f"not claimed: {_DECIDES[row.name].replace('_', ' ')} (relative difference {row.measured:.1e})"
                )
        card = dataclasses.replace(card, claims=Claims(**held))
        rows = [
            dataclasses.replace(row, tolerance=None) if row.name in _DECIDES and not row.passed else row
            for row in rows
        ]
    return card, rows
