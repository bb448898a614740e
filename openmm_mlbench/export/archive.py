"""TorchScript archives with their card inside: writing, reading, finding."""

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from openmm_mlbench.assets import asset_path, asset_root
from openmm_mlbench.errors import MLBenchError, ModelError
from openmm_mlbench.export.card import Card
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.export.imported_model import ImportedModel
from openmm_mlbench.export.operators import provide
from openmm_mlbench.files import atomic_path, sha256_file
from openmm_mlbench.models.force_field import ForceField
from openmm_mlbench.models.registry import build_network

CARD_FILE = "card.json"
# A card is a few kB; anything larger is not one.
LARGEST_CARD = 1_000_000
_HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An exported model on disk.

    Args:
        id: ``<data set>/<model>`` of a shipped model, else the path as given.
        path: of the ``.pt`` file.
        sha256: of its bytes.
        card: read from it.
    """

    id: str
    path: Path
    sha256: str
    card: Card

    def load_script(self) -> torch.jit.ScriptModule:
        """The TorchScript module. An archive is code: load only what you trust.

        Raises:
            ModelError: it does not load, or an imported model lacks something that it needs.
        """
        origin = self.card.origin
        if origin is not None:
            provide(
                packages=origin.packages,
                operators=origin.operators,
                libraries=origin.libraries,
                unused=origin.unused_operators,
                where=str(self.path),
            )
        try:
            return torch.jit.load(str(self.path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            line = str(error).strip().splitlines()[0][:200]
            raise ModelError(
                f"{self.path} cannot be loaded as TorchScript ({line}); export or copy it again"
            ) from error

    def load_eager(self) -> ExportedModel:
        """The same weights in this package's own network classes.

        Raises:
            ModelError: an imported model, which has none.
        """
        if self.card.origin is not None:
            raise ModelError(
                f"{self.path} was imported from {self.card.origin.kind}; it runs as it is, and has no network class here"
            )
        state = self.load_script().state_dict()
        network = build_network(self.card.model, self.card.hyperparameters, self.card.species)
        force_field = ForceField(network, torch.tensor(self.card.example_atomic_numbers))
        force_field.remove_mean_force = self.card.remove_mean_force
        force_field.predicts_energy = self.card.predicts_energy
        model = ExportedModel(force_field)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"{self.path}: weights do not fit the card's {self.card.model} network; export it again"
            ) from error
        return model.eval()

    def load_force_field(self) -> ForceField:
        """The same weights for batches of frames in A and eV."""
        model = self.load_eager()
        force_field = ForceField(model.network, model.atomic_numbers)
        force_field.scale, force_field.reference = model.scale, model.reference
        force_field.remove_mean_force = model.remove_mean_force
        force_field.predicts_energy = model.predicts_energy
        return force_field


def save_archive(model: ForceField | ImportedModel, card: Card, path: str | Path) -> None:
    """Script the model and write it with its card, atomically.

    Raises:
        ModelError: weights of half precision.
    """
    halves = {str(value.dtype) for value in model.state_dict().values() if value.dtype in _HALVES}
    if halves:
        raise ModelError(
            f"weights in {' and '.join(sorted(halves))} cost several per cent of the force; "
            "convert the network to float32 with .float()"
        )
    exported = ExportedModel(model.cpu()) if isinstance(model, ForceField) else model
    _write(torch.jit.script(exported.eval()), card, path)


def rewrite_card(archive: Archive, card: Card) -> None:
    """Write an archive anew with another card and the same module."""
    _write(archive.load_script(), card, archive.path)


def _write(module: torch.jit.ScriptModule, card: Card, path: str | Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer, _extra_files={CARD_FILE: card.to_json()})
    with atomic_path(path) as temporary:
        temporary.write_bytes(_without_sources(buffer))


_VERSIONS = {"version", ".data/version"}
# Records that a writer makes by itself.
_OF_THE_WRITER = {*_VERSIONS, "byteorder", ".data/serialization_id"}


def _without_sources(archive: io.BytesIO) -> bytes:
    """The archive without the records that say where on this machine each line of its code came from."""
    archive.seek(0)
    # torch has no public way to write an archive record by record.
    reader = torch._C.PyTorchFileReader(archive)  # noqa: SLF001
    content = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(content)  # noqa: SLF001
    names = reader.get_all_records()
    # Where the version stands depends on the version.
    (version,) = _VERSIONS & set(names)
    writer.set_min_version(int(reader.get_record(version)))
    for name in names:
        if not name.endswith(".debug_pkl") and name not in _OF_THE_WRITER:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return content.getvalue()


def read_card(path: str | Path) -> Card:
    """Read the card of an archive without running any of its code.

    Raises:
        ModelError: missing, not an archive, truncated, or without a card.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} does not exist; `openmm-mlbench models` lists the shipped models")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{CARD_FILE}")]
            if len(names) != 1:
                raise ModelError(f"{path} has no card; export it with `openmm-mlbench export`")
            if archive.getinfo(names[0]).file_size > LARGEST_CARD:
                raise ModelError(
                    f"{path}: its card is larger than {LARGEST_CARD} bytes; this is not a model of ours"
                )
            text = archive.read(names[0]).decode("utf-8")
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        raise ModelError(
            f"{path} is not a complete TorchScript archive ({error}); export or copy it again"
        ) from error
    return Card.from_json(text, str(path))


def find_archive(id_or_path: str | Path) -> Archive:
    """A shipped model by id (``ethanol/schnet``) or any archive by path.

    Raises:
        ModelError: neither exists.
    """
    text = str(id_or_path)
    path = Path(text)
    # Unlike Path.is_file this is False, not an error, for a name that no file can have.
    if not os.path.isfile(path):
        try:
            shipped = asset_path("torchscript_models", *f"{text}.pt".split("/"))
        except MLBenchError:
            shipped = None
        if shipped is None or not os.path.isfile(shipped):
            known = ", ".join(list_archives()) or "none"
            raise ModelError(f"model {text!r} is neither a file nor a shipped model; shipped are {known}")
        path = shipped
    return Archive(id=text, path=path, sha256=sha256_file(path), card=read_card(path))


def list_archives() -> list[str]:
    """Ids of the shipped models."""
    root = asset_root() / "torchscript_models"
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.glob("*/*.pt"))
