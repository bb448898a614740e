"""What reading a file of another package yields, and what a user may state about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.units import (
    ANGSTROM_PER_BOHR,
    ANGSTROM_PER_NM,
    EV_PER_HARTREE,
    KJMOL_PER_EV,
    KJMOL_PER_KCALMOL,
)

KJMOL_PER_ENERGY = {
    "eV": KJMOL_PER_EV,
    "meV": KJMOL_PER_EV / 1000.0,
    "kcal/mol": KJMOL_PER_KCALMOL,
    "kJ/mol": 1.0,
    "Hartree": KJMOL_PER_EV * EV_PER_HARTREE,
}
LENGTH_PER_NM = {"A": ANGSTROM_PER_NM, "nm": 1.0, "Bohr": ANGSTROM_PER_NM / ANGSTROM_PER_BOHR}


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the user says of a file that it does not say itself.

    Args:
        energy_unit: of :data:`KJMOL_PER_ENERGY`, or None for the package's own.
        length_unit: of :data:`LENGTH_PER_NM`, or None for the package's own.
        elements: symbols in the order of the model's types, or None where the file names them.
        cutoff: of the pair list, in the model's unit of length, where the file does not tell.
        dtype: ``float32`` or ``float64`` to convert the weights to, or None.
        head: of a MACE model with several.
        energy_key: name of the energy among schnetpack's outputs.
        forces_key: name of the forces.
        signature: of a TorchScript module; see :mod:`openmm_mlbench.export.adapters.signature`.
        packages: Python packages to import before it is loaded.
        libraries: libraries of operators to load before it.
        python: interpreter that opens pickled files, or None for this one.
    """

    energy_unit: str | None = None
    length_unit: str | None = None
    elements: list[str] | None = None
    cutoff: float | None = None
    dtype: str | None = None
    head: str | None = None
    energy_key: str = "energy"
    forces_key: str = "forces"
    signature: str | None = None
    packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    python: str | None = None

    def __post_init__(self) -> None:
        for unit, known in ((self.energy_unit, KJMOL_PER_ENERGY), (self.length_unit, LENGTH_PER_NM)):
            if unit is not None and unit not in known:
                raise ModelError(f"unit {unit!r} is not known; use one of {', '.join(known)}")
        if self.dtype not in {None, "float32", "float64"}:
            raise ModelError(f"dtype {self.dtype!r} is not known; use float32 or float64")
        if self.cutoff is not None and not 0 < self.cutoff < float("inf"):
            raise ModelError(f"cutoff {self.cutoff:g} is no distance; give one above zero")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A foreign model, read and wrapped.

    Args:
        module: adapter with the interface of :mod:`openmm_mlbench.export.imported_model`.
        needs_pairs: whether it wants a pair list.
        species: atomic numbers that it knows.
        cutoff: in its unit of length.
        dtype: of its weights.
        n_parameters: trained ones, 0 where they cannot be told from constants.
        energy_unit: of :data:`KJMOL_PER_ENERGY`.
        length_unit: of :data:`LENGTH_PER_NM`.
        versions: of the package that opened it.
        options: what the user stated, for the card.
        only: ``open`` or ``periodic`` where it can serve nothing else, or None.
    """

    module: nn.Module
    needs_pairs: bool
    species: list[int]
    cutoff: float
    dtype: str
    n_parameters: int
    energy_unit: str
    length_unit: str
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    only: str | None = None


def atomic_numbers_of(symbols: list[str], what: str, *, override: list[str] | None = None) -> list[int]:
    """Atomic numbers of a model's types.

    Args:
        symbols: names of the types in the file.
        what: for the message.
        override: elements that the user gave instead, in the same order.

    Raises:
        ModelError: a name is no element, or there are more or fewer of one than of the other.
    """
    from ase.data import atomic_numbers

    if override is not None and symbols and len(override) != len(symbols):
        raise ModelError(
            f"{what} has the {len(symbols)} types {', '.join(symbols)}, --elements names {len(override)}; "
            "give one element for each, in this order"
        )
    names = symbols if override is None else override
    unknown = [name for name in names if atomic_numbers.get(name, 0) < 1]
    if unknown or not names:
        raise ModelError(
            f"{what} calls its atom types {', '.join(names) or 'nothing'}, and "
            f"{', '.join(unknown) or 'that'} is no element; give --elements in the model's order, for example H,C,O"
        )
    numbers = [int(atomic_numbers[name]) for name in names]
    if len(set(numbers)) != len(numbers):
        raise ModelError(f"{what} has an element twice ({', '.join(names)}); its types cannot be told apart")
    return numbers


def load_torchscript(
    path: Path, extra: dict[str, str] | None = None
) -> tuple[torch.jit.ScriptModule, dict[str, str]]:
    """A TorchScript file and the named extra files in it, empty where they are missing.

    Raises:
        ModelError: it is none.
    """
    files: dict[str, Any] = dict(extra or {})
    try:
        module = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    except (RuntimeError, ValueError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{path} cannot be loaded as TorchScript ({lines[0][:200] if lines else type(error).__name__}); "
            "compile it with the package that made it, for the torch that is installed here"
        ) from error
    texts = {
        name: value.decode("utf-8") if isinstance(value, bytes) else str(value)
        for name, value in files.items()
    }
    return module.eval(), texts


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def dtype_of(module: nn.Module, what: str) -> str:
    """Dtype of most numbers in parameters and buffers: ``float32`` or ``float64``."""
    sizes = {torch.float32: 0, torch.float64: 0}
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            if tensor.dtype not in sizes:
                raise ModelError(f"{what} has weights of {tensor.dtype}; convert it to float32 or float64")
            sizes[tensor.dtype] += tensor.numel()
    return "float32" if sizes[torch.float32] > sizes[torch.float64] else "float64"
