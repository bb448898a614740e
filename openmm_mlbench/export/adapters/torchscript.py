"""Any TorchScript module, by a signature that the user states.

A signature reads ``INPUTS -> OUTPUTS``, for example

    numbers, positions, cell -> energy, forces
    (numbers[1], positions[1]), cell_or_none, pbc_or_none -> _, energy
    {"pos": positions, "z": numbers, "edge_index": edges} -> {"energy": energy}

INPUTS are the module's arguments in order: names of :data:`INPUTS`, tuples and dictionaries of
them; ``[1]`` puts an axis of length one in front, ``-`` reverses the sign.  OUTPUTS is one name
of :data:`OUTPUTS`, or a tuple or dictionary of them; ``_`` stands for what is not wanted.
Without forces they are the derivative of the energy with respect to the positions.
"""

import ast
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.adapters.foreign import (
    Foreign,
    Stated,
    atomic_numbers_of,
    count_parameters,
    dtype_of,
    load_torchscript,
)
from openmm_mlbench.export.imported_model import SpeciesTable

# Name: what it is.  Edges run both ways; row 0 is the centre, row 1 the neighbour.
INPUTS = {
    "positions": "(n_atoms, 3)",
    "numbers": "atomic numbers (n_atoms,)",
    "types": "places in --elements (n_atoms,)",
    "cell": "(3, 3), lattice vectors in rows; zeros without a box",
    "cell_or_none": "the same; None without a box",
    "pbc": "three truth values",
    "pbc_or_none": "the same; None without a box",
    "edges": "(2, n_edges), centre and neighbour",
    "shifts": "(n_edges, 3): neighbour + shift - centre is the edge's vector",
    "vectors": "(n_edges, 3), from centre to neighbour",
    "none": "None",
}
OUTPUTS = {
    "energy": "summed if it has several elements",
    "forces": "(n_atoms, 3)",
    "gradient": "(n_atoms, 3), the forces with the opposite sign",
    "_": "anything",
}
_NEEDS_PAIRS = {"edges", "shifts", "vectors"}
_PERIODIC = {"cell", "cell_or_none"} | _NEEDS_PAIRS


class Signature:
    """A parsed signature.

    Args:
        text: see the head of this file.

    Attributes:
        inputs: names of the inputs that are used.
        outputs: names of the outputs that are used.
        source: of a TorchScript method that calls ``self.model``.

    Raises:
        ModelError: not a signature.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.inputs: set[str] = set()
        self.outputs: set[str] = set()
        parts = text.split("->")
        if len(parts) != 2 or not all(part.strip() for part in parts):
            raise self._wrong("it has to read INPUTS -> OUTPUTS")
        given = self._parse(parts[0])
        # Python reads `a, b` and `(a, b)` alike; a tuple as the only argument is `(a, b),`.
        arguments = given.elts if isinstance(given, ast.Tuple) else [given]
        calls = ", ".join(self._input(node) for node in arguments)
        lines = [f"result = self.model({calls})", *self._output(self._parse(parts[1]))]
        if "positions" not in self.inputs and "vectors" not in self.inputs:
            raise self._wrong("the module is given neither positions nor vectors")
        if "energy" not in self.outputs:
            raise self._wrong("no output is called energy")
        if {"forces", "gradient"} <= self.outputs:
            raise self._wrong("forces and gradient are the same thing twice")
        lines += ["return energy, forces"]
        names = ", ".join(
            f"{name}: {'Optional[Tensor]' if name.endswith('_or_none') else 'Tensor'}"
            for name in INPUTS
            if name != "none"
        )
        body = "\n".join(f"    {line}" for line in ["forces = positions[:0]", *lines])
        self.source = f"def call(self, {names}) -> Tuple[Tensor, Tensor]:\n{body}\n"

    def _wrong(self, why: str) -> ModelError:
        return ModelError(
            f"signature {self.text!r}: {why}; inputs are {', '.join(INPUTS)}, outputs {', '.join(OUTPUTS)}, as in "
            "'numbers, positions, cell -> energy, forces'"
        )

    def _parse(self, part: str) -> ast.expr:
        try:
            return ast.parse(part.strip(), mode="eval").body
        except SyntaxError as error:
            raise self._wrong(f"{part.strip()!r} cannot be read") from error

    def _input(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id="none"):
                return "None"
            case ast.Name(id=name) if name in INPUTS:
                self.inputs.add(name)
                return name
            case ast.Tuple(elts=elements):
                return "(" + "".join(f"{self._input(element)}, " for element in elements) + ")"
            case ast.Dict(keys=keys, values=values) if all(
                isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys
            ):
                pairs = zip(keys, values, strict=True)
                return (
                    "{"
                    + ", ".join(f"{ast.unparse(key)}: {self._input(value)}" for key, value in pairs if key)
                    + "}"
                )
            case ast.Subscript(value=value, slice=ast.Constant(value=1)):
                return f"({self._input(value)}).unsqueeze(0)"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"-({self._input(operand)})"
        raise self._wrong(f"{ast.unparse(node)!r} is no input")

    def _output(self, node: ast.expr) -> list[str]:
        match node:
            case ast.Name(id=name):
                places = {"result": name}
            case ast.Tuple(elts=elements) if all(isinstance(element, ast.Name) for element in elements):
                places = {
                    f"result[{k}]": element.id
                    for k, element in enumerate(elements)
                    if isinstance(element, ast.Name)
                }
            case ast.Dict(keys=keys, values=values) if all(
                isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys
            ) and all(isinstance(value, ast.Name) for value in values):
                places = {
                    f"result[{ast.unparse(key)}]": value.id
                    for key, value in zip(keys, values, strict=True)
                    if key and isinstance(value, ast.Name)
                }
            case _:
                raise self._wrong(f"{ast.unparse(node)!r} is no output")
        lines = []
        for place, name in places.items():
            if name not in OUTPUTS or (name != "_" and name in self.outputs):
                raise self._wrong(f"{name!r} is no output, or stands there twice")
            self.outputs.add(name)
            if name == "_":
                continue
            # Of the type Optional in many packages.
            lines += [f"found_{name} = {place}", f"assert found_{name} is not None"]
            lines += [
                f"{'energy' if name == 'energy' else 'forces'} = {'-' if name == 'gradient' else ''}found_{name}"
            ]
        return lines


class _Caller(nn.Module):
    """Holds the user's module; the method that calls it is compiled from the signature's source."""

    def __init__(self, model: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.model = model


class TorchScriptAdapter(nn.Module):
    """Hands a module what its signature asks for.

    Args:
        model: the user's module.
        signature: of it.
        species: atomic number of each type.
        dtype: of floating-point inputs.
    """

    like: Tensor
    has_forces: Final[bool]

    def __init__(
        self, model: torch.jit.ScriptModule, signature: Signature, species: list[int], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.caller = torch.jit.script(_Caller(model))
        self.caller.define(signature.source)
        self.table = SpeciesTable(species)
        self.has_forces = bool({"forces", "gradient"} & signature.outputs)
        self.register_buffer("like", torch.zeros((), dtype=dtype))

    def forward(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None,
        pair_index: Tensor,
        pair_vectors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Energy and forces (n_atoms, 3)."""
        dtype, device = self.like.dtype, positions.device
        box = torch.zeros((3, 3), dtype=dtype, device=device)
        box_or_none: Tensor | None = None
        pbc = torch.zeros(3, dtype=torch.bool, device=device)
        pbc_or_none: Tensor | None = None
        if cell is not None:
            box = cell.to(dtype)
            box_or_none = box
            pbc = torch.ones(3, dtype=torch.bool, device=device)
            pbc_or_none = pbc
            # Unwrapped atoms may lie far away, where a module's own search does not expect them.
            positions = positions - torch.floor(positions @ torch.linalg.inv(cell)) @ cell
        between = pair_vectors - (positions[pair_index[1]] - positions[pair_index[0]])
        shifts = torch.cat([between, -between]).to(dtype)
        edges = torch.cat([pair_index, pair_index.flip(0)], dim=1)
        leaf = positions.to(dtype).detach().requires_grad_()
        vectors = leaf[edges[1]] - leaf[edges[0]] + shifts
        energy, forces = self.caller.call(
            leaf,
            atomic_numbers,
            self.table(atomic_numbers),
            box,
            box_or_none,
            pbc,
            pbc_or_none,
            edges,
            shifts,
            vectors,
        )
        energy = energy.to(torch.float64).sum()
        if not self.has_forces:
            gradient = torch.autograd.grad([energy], [leaf], allow_unused=True)[0]
            forces = torch.zeros_like(leaf) if gradient is None else -gradient
        return energy, forces


def read(path: Path, stated: Stated) -> Foreign:
    """Read a TorchScript module and build the call that its signature describes.

    Raises:
        ModelError: something is not stated, or does not fit the module.
    """
    wanted = {
        "--signature": stated.signature,
        "--elements": stated.elements,
        "--cutoff": stated.cutoff,
        "--energy-unit": stated.energy_unit,
        "--length-unit": stated.length_unit,
    }
    missing = [name for name, value in wanted.items() if value is None]
    if missing:
        raise ModelError(
            f"{path}: a TorchScript file does not tell these by itself; give {', '.join(missing)}"
        )
    assert stated.signature is not None
    assert stated.elements is not None
    assert stated.cutoff is not None
    assert stated.energy_unit is not None
    assert stated.length_unit is not None
    module, _ = load_torchscript(path)
    signature = Signature(stated.signature)
    species = atomic_numbers_of(stated.elements, "--elements")
    if stated.dtype is not None:
        module = module.to({"float32": torch.float32, "float64": torch.float64}[stated.dtype])
    dtype = stated.dtype or dtype_of(module, str(path))
    try:
        adapter = TorchScriptAdapter(
            module, signature, species, {"float32": torch.float32, "float64": torch.float64}[dtype]
        )
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{path} cannot be called as {signature.text!r} ({' '.join(lines[:3])[:300]}); state the signature of its forward"
        ) from error
    return Foreign(
        module=adapter,
        needs_pairs=bool(signature.inputs & _NEEDS_PAIRS),
        species=species,
        cutoff=stated.cutoff,
        dtype=dtype,
        n_parameters=count_parameters(module),
        energy_unit=stated.energy_unit,
        length_unit=stated.length_unit,
        only=None if signature.inputs & _PERIODIC else "open",
    )
