"""Opens a pickled model and writes it as TorchScript; runs as a program of its own.

    python unpickle.py REQUEST.json

It needs torch and the package that made the model, and nothing else of ours, so that any
interpreter that has them can run it.  A pickle runs code when it is opened: only
:func:`openmm_mlbench.export.adapters.pickled.convert` calls this, after the user's consent.
"""

import contextlib
import importlib.metadata
import json
import os
import sys
from typing import Any

# A program's own folder comes first on its path; here it holds files named after the packages.
if __name__ == "__main__":
    del sys.path[0]


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """What the user reads, in one line."""


def main() -> None:
    """Answer a request; the last line of the output is JSON: ``{"refused": ...}`` or facts about the model."""
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    try:
        # Packages greet the user on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            answer = OPENERS[request["kind"]](request)
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    print(json.dumps(answer))


def _load(path: str) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=False)


def _convert_dtype(model: Any, dtype: str | None) -> str:
    import torch

    found = next(model.parameters()).dtype
    wanted = found if dtype is None else getattr(torch, dtype)
    model.to(wanted)
    return str(wanted).removeprefix("torch.")


def open_mace(request: dict[str, Any]) -> dict[str, Any]:
    """A ``.model`` file: the whole pickled module."""
    # mace's own way to open files from before torch 2.6; and mace has to be imported before e3nn.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        import mace  # noqa: F401
        from e3nn.util import jit
    except ImportError as error:
        raise Refused(f"mace-torch does not import here ({error})") from error
    model = _load(request["file"])
    missing = [name for name in ("r_max", "atomic_numbers", "interactions") if not hasattr(model, name)]
    if missing:
        raise Refused(f"it holds a {type(model).__name__} without {missing[0]}, not a MACE model")
    if hasattr(model, "joint_embedding"):
        raise Refused("it needs total charges or spins as an input, which OpenMM has not")
    # More than one table of readouts shares the weights.
    heads = list(getattr(model, "heads", None) or ["Default"])
    head = request["head"]
    if head is None and len(heads) == 1:
        head = heads[0]
    if head not in heads:
        raise Refused(f"it has the heads {', '.join(heads)}; choose one with --head")
    dtype = _convert_dtype(model, request["dtype"])
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    jit.compile(model).save(request["out"])
    return {
        "species": [int(number) for number in model.atomic_numbers],
        "cutoff": float(model.r_max),
        "dtype": dtype,
        "head": heads.index(head),
        "n_parameters": n_parameters,
        "versions": _versions("mace-torch", "e3nn", "torch"),
    }


# These see atoms farther away than the pair list reaches, or positions as such.
_NOT_PAIRWISE = {"FilterShortRange", "EnergyEwald", "EnergyCoulomb", "StaticExternalFields"}


def open_schnetpack(request: dict[str, Any]) -> dict[str, Any]:
    """A ``best_model`` file: a pickled ``NeuralNetworkPotential``."""
    import torch
    from torch.utils.data import dataloader

    # schnetpack 2.0 takes a type variable from where newer versions of torch have not kept it.
    if not hasattr(dataloader, "T_co"):
        dataloader.T_co = dataloader._T_co  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        import schnetpack  # noqa: F401
    except ImportError as error:
        raise Refused(f"schnetpack does not import here ({error})") from error
    model = _load(request["file"])
    missing = [
        name for name in ("representation", "output_modules", "model_outputs") if not hasattr(model, name)
    ]
    if missing:
        raise Refused(
            f"it holds a {type(model).__name__} without {missing[0]}, not a NeuralNetworkPotential; give best_model"
        )
    for key in (request["energy_key"], request["forces_key"]):
        if key not in model.model_outputs:
            raise Refused(
                f"its outputs are {', '.join(model.model_outputs)}, and {key!r} is none of them; give "
                "--energy-key and --forces-key"
            )
    far = {type(module).__name__ for module in model.modules()} & _NOT_PAIRWISE
    if far:
        raise Refused(f"it holds {', '.join(sorted(far))}, which acts beyond the pair list")
    # Before the weights may lose digits: offsets are large.
    offset, atomref = _take_offsets(model, request["energy_key"])
    dtype = _convert_dtype(model, request["dtype"])
    model.eval()
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    torch.jit.script(model).save(request["out"])
    return {
        "cutoff": float(model.representation.cutoff),
        "offset": offset,
        "atomref": atomref,
        "dtype": dtype,
        "n_parameters": n_parameters,
        "versions": _versions("schnetpack", "torch"),
    }


def _take_offsets(model: Any, energy_key: str) -> tuple[float, list[float]]:
    """Take the last steps off a potential: those that add constants to the energy, and casts.

    Casts do not script, and constants are better added in float64 whatever the weights are.

    Returns:
        Energy per atom, and energy of each element by atomic number.
    """
    import torch
    from schnetpack.transform import AddOffsets, CastTo32, CastTo64

    offset, atomref = 0.0, [0.0] * 119
    left: list[Any] = []
    added = False
    for step in model.postprocessors if model.do_postprocessing else []:
        if isinstance(step, CastTo32 | CastTo64):
            continue
        if not isinstance(step, AddOffsets):
            if added:
                raise Refused(f"{type(step).__name__} follows AddOffsets among its postprocessors")
            left.append(step)
            continue
        if step._property != energy_key or not step.is_extensive:  # noqa: SLF001
            raise Refused(f"its AddOffsets acts on {step._property}, or not on each atom")  # noqa: SLF001
        added = True
        if step.add_mean:
            offset += float(step.mean)
        if step.add_atomrefs:
            for number, energy in enumerate(step.atomref.flatten().tolist()[:119]):
                atomref[number] += energy
    model.postprocessors = torch.nn.ModuleList(left)
    return offset, atomref


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


OPENERS = {"mace": open_mace, "schnetpack": open_schnetpack}


if __name__ == "__main__":
    main()
