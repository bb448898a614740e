"""What works on this machine, and why not: the first support question answered."""

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    try:
        import torch

        from openmm_mlbench.export.compiled import compiled_folder, find_compiler

        rows.append(
            (
                "C++ compiler",
                " ".join(find_compiler() or ()) or "none: a PythonForce runs uncompiled, and slower",
                True,
            )
        )
        rows.append(("compiled models", _stock(compiled_folder()), True))

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
        rows += _platform_rows()
    return rows


def _platform_rows() -> list[tuple[str, str, bool]]:
    """Where a molecule with a learned force would run."""
    import openmm

    from openmm_mlbench.forces.drivers import make_force
    from openmm_mlbench.forces.platforms import smallest_module
    from openmm_mlbench.simulation.platforms import choose_platform

    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(make_force(smallest_module(), periodic=False))
    choice = choose_platform("auto", system, threads=1)
    where = f"auto runs on {choice.name}, {choice.precision} precision: {choice.reason}"
    if choice.name != "CUDA":
        graphs = f"off: nothing is replayed on {choice.name}"
    elif choice.driver != "torchforce":
        graphs = "off: they belong to TorchForce"
    else:
        graphs = "on for models of fixed shapes: molecules, and boxes whose positions are given"
    return [("platform", where, True), ("CUDA graphs", graphs, True)]


def _stock(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.glob("*.pt2")] if folder.is_dir() else []
    return f"{len(sizes)} in {folder}, {sum(sizes) / 1e6:.0f} MB"
