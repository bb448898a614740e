"""Custom operators and packages that an archive needs wherever it runs.

TorchScript finds an operator by name among those registered in the process; a library or
package registers them when it is loaded.  An archive that names one that is not registered
does not load, even where it is never called.
"""

import importlib
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from openmm_mlbench.errors import ModelError

# Libraries to load before any archive, separated as in PATH.
LIBRARIES_VARIABLE = "MLBENCH_OPERATORS"
# Of torch itself.
_BUILT_IN = {"aten", "prim", "prims", "profiler", "quantized", "inductor", "c10d", "mkldnn", "rngprims"}
_CALL = re.compile(r"\bops\.(\w+)\.(\w+)")
# Registered by their schema alone, which is enough to load what never calls them.  What a Library
# object defines goes with it, so it is kept.
_stubs: dict[str, torch.library.Library] = {}


def named_operators(path: str | Path) -> list[str]:
    """Custom operators that the code of a TorchScript file names, as ``namespace::name``."""
    found = set()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "/code/" in name and name.endswith(".py"):
                    found.update(_CALL.findall(archive.read(name).decode("utf-8")))
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError):
        return []
    return sorted(f"{space}::{name}" for space, name in found if space not in _BUILT_IN)


def is_registered(operator: str) -> bool:
    """Whether TorchScript finds it in this process, with something to run behind it."""
    # The only way to ask.
    return operator not in _stubs and bool(torch._C._jit_get_schemas_for_operator(operator))  # noqa: SLF001


def load_libraries(paths: Iterable[str]) -> None:
    """Load libraries of operators.

    Raises:
        ModelError: one does not load.
    """
    for path in paths:
        try:
            torch.ops.load_library(path)
        except OSError as error:
            raise ModelError(
                f"the operator library {path} does not load ({error}); give one that was built for torch {torch.__version__}"
            ) from error


def import_packages(names: Iterable[str], where: str) -> None:
    """Import packages that register operators or classes.

    Raises:
        ModelError: one is missing.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ModelError(
                f"{where} needs the Python package {name} in the same process ({error}); install it, or leave the model out"
            ) from error


def define_unused(schemas: Sequence[str]) -> None:
    """Register operators by their schema alone, where they are not there; calling one is an error."""
    for schema in schemas:
        name = schema.split("(")[0]
        if name not in _stubs and not is_registered(name):
            space, rest = schema.split("::", 1)
            _stubs[name] = torch.library.Library(space, "FRAGMENT")
            _stubs[name].define(rest)


def provide(
    *,
    packages: Sequence[str],
    operators: Sequence[str],
    libraries: Sequence[str],
    unused: Sequence[str],
    where: str,
) -> None:
    """See to it that an archive can be loaded.

    Args:
        packages: Python packages to import.
        operators: that it calls.
        libraries: file names of the libraries that they came from.
        unused: schemas of operators that it only names.
        where: the archive, for messages.

    Raises:
        ModelError: something is missing; the message says what brings it.
    """
    import_packages(packages, where)
    if not all(is_registered(operator) for operator in operators):
        load_libraries(path for path in os.environ.get(LIBRARIES_VARIABLE, "").split(os.pathsep) if path)
    missing = [operator for operator in operators if not is_registered(operator)]
    if missing:
        raise ModelError(
            f"{where} calls the custom operators {', '.join(missing)}"
            + (f" of {', '.join(libraries)}" if libraries else "")
            + f"; set {LIBRARIES_VARIABLE} to the path of the library that brings them, built for torch {torch.__version__}"
        )
    define_unused(unused)
