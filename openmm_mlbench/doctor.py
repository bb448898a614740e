"""What works on this machine, and why not: the first support question answered."""

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from openmm_mlbench import __version__

PACKAGES = ("openmm", "openmmtorch", "torch", "openmmml", "openmmtools", "mdtraj", "pymbar", "numpy", "ase")
OPTIONAL = {
    "tblite": "reference labels (`data generate`); pip install 'openmm-mlbench[xtb]'",
    "openmmplumed": "PLUMED metadynamics; conda-forge only",
    "dask": "campaigns on clusters; pip install 'openmm-mlbench[dask]'",
}
TESTED = {"openmm": "8.5", "openmmtorch": "1.5", "torch": "2.9"}


def diagnose() -> list[tuple[str, str, bool]]:
    """Rows (what, found, fine) about versions, platforms, plugins and the driver that will run."""
    rows = [
        ("openmm-mlbench", __version__, True),
        (
            "python",
            f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            True,
        ),
    ]
    rows += [_package_row(name) for name in PACKAGES]
    for name, use in OPTIONAL.items():
        found = importlib.util.find_spec(name) is not None
        rows.append((name, "installed" if found else f"not installed (optional: {use})", True))
    rows.append(
        ("C compiler", shutil.which("gcc") or shutil.which("cc") or "none (optional: compiled models)", True)
    )
    try:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows.append(("CUDA in torch", ", ".join(devices) or "no device", True))
    except ImportError as error:
        rows.append(("CUDA in torch", f"torch does not import: {error}", False))
    return rows + _openmm_rows()


def _package_row(name: str) -> tuple[str, str, bool]:
    distribution = {"openmm": "OpenMM"}.get(name, name)
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return (name, "not installed; reinstall with `pip install openmm-mlbench`", False)
    wanted = TESTED.get(name)
    if wanted is not None and not found.startswith(wanted):
        return (name, f"{found}; tested with {wanted} only, see docs/installation.md", False)
    return (name, found, True)


def _openmm_rows() -> list[tuple[str, str, bool]]:
    from openmm_mlbench.forces.drivers import choose_driver
    from openmm_mlbench.forces.platforms import prepare_platforms

    try:
        import openmm
    except ImportError as error:
        return [("OpenMM platforms", f"openmm does not import: {error}", False)]
    status = prepare_platforms()
    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    rows = [("OpenMM platforms", ", ".join(names), True)]
    rows += [
        ("plugin failure", failure.strip(), True)
        for failure in openmm.Platform.getPluginLoadFailures()
        if "OpenCL" not in failure and "Torch" not in failure
    ]
    # The OpenCL and CUDA libraries need a driver that most machines lack.
    optional = ("OpenCL", "CUDA")
    rows += [
        ("TorchForce library", failure, False)
        for failure in status.failures
        if not any(name in failure for name in optional)
    ]
    chosen, reason = choose_driver("auto")
    rows.append(("driver", f"{chosen}: {reason}", chosen == "torchforce"))
    if importlib.util.find_spec("torch") is not None:
        rows.append(("platform", _platform_for_learned_force(names), True))
    return rows


def _platform_for_learned_force(names: list[str]) -> str:
    import torch

    if "CUDA" in names and torch.cuda.is_available():
        return "auto runs on CUDA, mixed precision"
    return (
        "auto runs on Reference: no CUDA device, and for a purely learned force it is the faster CPU platform"
    )
