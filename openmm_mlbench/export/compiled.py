"""Compiled forces: the graph of :mod:`ahead_of_time` as machine code (AOTInductor), kept in a cache.

One file for each model, list of atomic numbers and machine.  It is code: it is loaded from a folder
of the user's own only, which nobody else may write to.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
from torch import Tensor

from openmm_mlbench import __version__
from openmm_mlbench.data.datasets import cache_folder
from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.ahead_of_time import function_of_molecule, graph_without_autograd
from openmm_mlbench.export.archive import Archive
from openmm_mlbench.files import atomic_path

# What decides the code that comes out, beside the archive.
_SOURCES = (
    *("export/ahead_of_time.py", "export/graph_passes.py", "export/exported_model.py", "export/compiled.py"),
    "models/**/*.py",
)
# A first process may take this long before another stops waiting for its result.
_PATIENCE_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled model for some atoms in open space; called like its TorchScript module.

    Args:
        run: a list with positions (n_selected, 3), nm, float64, to a list of energy and forces.
        atoms: places of the selected atoms among all, or empty for all atoms.
        device: that it runs on.
        note: how it came about, in one line.
    """

    run: Callable[[list[Tensor]], list[Tensor]]
    atoms: Tensor
    device: torch.device
    note: str

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (kJ/mol, float64) and forces (n_atoms, 3), kJ/mol/nm, of positions (n_atoms, 3), nm, float64."""
        if self.atoms.size(0) == 0:
            energy, forces = self.run([positions])
            return energy, forces
        energy, selected = self.run([positions.index_select(0, self.atoms)])
        return energy, torch.zeros_like(positions).index_copy_(0, self.atoms, selected)


def find_compiler() -> tuple[str, ...] | None:
    """The C++ compiler and its arguments, as CXX has them (``ccache g++``), or None where there is none."""
    try:
        words = shlex.split(os.environ.get("CXX") or "g++")
    except ValueError:
        return None
    program = shutil.which(words[0]) if words else None
    return None if program is None else (program, *words[1:])


def compiled_folder() -> Path:
    """Where compiled models are kept."""
    return cache_folder() / "compiled"


def compile_molecule(
    archive: Archive, atomic_numbers: Tensor, atoms: Tensor, positions_nm: Tensor, device: str = "cpu"
) -> Compiled:
    """Compile a model for these atoms in open space, or load what was compiled before.

    Args:
        archive: the model.
        atomic_numbers: (n_selected,).
        atoms: (n_selected,) their places among all, or empty for all atoms.
        positions_nm: (n_selected, 3), an ordinary configuration to trace with.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: no compiler, a folder that others can write to, or Inductor fails.
    """
    where = torch.device(device)
    folder = compiled_folder()
    _check_folder(folder)
    name = _key(archive.sha256, atomic_numbers.tolist(), device)
    path = folder / f"{name}.pt2"
    note = "compiled code from the cache"
    run, damage = _load_kept(path)
    if run is None:
        compiler = find_compiler()
        if compiler is None:
            raise ModelError(f"{damage}there is no C++ compiler ({os.environ.get('CXX') or 'g++'})")
        try:
            # Processes that want the same thing wait for the first.
            with filelock.FileLock(folder / f"{name}.lock", timeout=_PATIENCE_S):
                run, damage = _load_kept(path)
                if run is None:
                    # Up to minutes without a sign would look like a fault.
                    print(
                        f"{damage}compiling {archive.id} for these atoms, once ...",
                        file=sys.stderr,
                        flush=True,
                    )
                    path.unlink(missing_ok=True)
                    started = time.monotonic()
                    _compile(archive, atomic_numbers, positions_nm.to(where), path, compiler)
                    run = _load(path)
                    note = f"compiled in {time.monotonic() - started:.0f} s, kept in {folder}"
        except filelock.Timeout as error:
            raise ModelError(f"another process has been compiling {path} for {_PATIENCE_S:g} s") from error
        (folder / f"{name}.lock").unlink(missing_ok=True)
    return Compiled(run=run, atoms=atoms.to(where), device=where, note=note)


def _check_folder(folder: Path) -> None:
    """Make the folder; raise ModelError where code in it could be somebody else's."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise ModelError(f"{folder} cannot be made ({error.strerror})") from error
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise ModelError(f"{folder} belongs to, or can be written by, others; make it private with chmod 700")


def _key(sha256: str, atomic_numbers: list[int], device: str) -> str:
    """Name of the compiled code: everything that it depends on."""
    known = [
        sha256,
        atomic_numbers,
        __version__,
        source_digest(),
        str(torch.__version__),
        device,
        _processor(),
    ]
    if device == "cuda":
        known += [torch.cuda.get_device_name(), list(torch.cuda.get_device_capability())]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


@functools.cache
def source_digest() -> str:
    """Of the code that decides what a network computes and what is compiled for it."""
    package = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(package.glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()


@functools.cache
def _processor() -> str:
    """Its instruction set: the code is made for this processor and may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # `flags` of x86, `Features` of Arm.
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def _compile(
    archive: Archive, atomic_numbers: Tensor, positions_nm: Tensor, path: Path, compiler: tuple[str, ...]
) -> None:
    model = archive.load_eager().to(positions_nm.device)
    model.atomic_numbers = atomic_numbers.to(positions_nm.device)
    example = (positions_nm.detach().to(torch.float64),)
    function = function_of_molecule(model)

    def energy_and_forces(positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = function(positions)
        # OpenMM's own dtype, so that nothing is left to convert outside.
        return energy, forces.to(torch.float64).contiguous()

    graph = graph_without_autograd(energy_and_forces, example)
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    with tempfile.TemporaryDirectory() as folder, _quiet(), atomic_path(path) as temporary:
        package = str(Path(folder) / "model.pt2")
        try:
            with torch.no_grad(), fresh_cache(dir=folder):
                exported = torch.export.export(graph, example)
                aoti_compile_and_package(
                    exported,
                    package_path=package,
                    # A molecule is too small for threads, of the code and of the compiler.  Inductor read CXX
                    # when torch was imported; what was found now is what was promised.
                    inductor_configs={
                        "cpp.threads": 1,
                        "compile_threads": 1,
                        "cpp.cxx": (_one_word(compiler, Path(folder)),),
                    },
                )
        except Exception as error:  # whatever Inductor or the compiler raises
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ModelError(
                f"Inductor cannot compile it ({type(error).__name__}: {lines[0][:200] if lines else ''})"
            ) from error
        shutil.copyfile(package, temporary)


def _one_word(compiler: tuple[str, ...], folder: Path) -> str:
    """A program to call without arguments, which Inductor cannot give; its name tells GCC from Clang."""
    if len(compiler) == 1:
        return compiler[0]
    names = [Path(word).name for word in compiler]
    name = next((name for name in names if re.search(r"\+\+|gcc|clang", name)), names[0])
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {shlex.join(compiler)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    return str(script)


def _load_kept(path: Path) -> tuple[Callable[[list[Tensor]], list[Tensor]] | None, str]:
    """What was compiled before; else None, and the beginning of a line if there is a file that is damaged."""
    if not path.is_file():
        return None, ""
    try:
        return _load(path), ""
    except ModelError as error:
        return None, f"{error}; "


def _load(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    from torch._inductor import aoti_load_package

    try:
        with _quiet():
            model = aoti_load_package(str(path), run_single_threaded=True)
    except Exception as error:  # whatever the loader raises
        raise ModelError(f"{path} could not be loaded ({type(error).__name__})") from error
    # Calling the model itself costs 40 us for the layout of arguments, which is one tensor here.
    run: Callable[[list[Tensor]], list[Tensor]] = model.loader.run
    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Inductor's warnings, of which no user can act on any."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
