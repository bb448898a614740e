"""Leaving for plain OpenMM: system.xml, integrator.xml, state.xml and a script that runs them."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.export.operators import LIBRARIES_VARIABLE
from openmm_mlbench.files import write_text

if TYPE_CHECKING:
    import numpy as np

    from openmm_mlbench.export.card import Origin
    from openmm_mlbench.potential import Potential
    from openmm_mlbench.protocol import Protocol

# torch must come first, and libraries that OpenMM could not load before it are loaded again.
SCRIPT = """import os, torch, openmmtorch  # torch first, openmmtorch second
from openmm import Platform, XmlSerializer, app, version
os.chdir(os.path.dirname(os.path.abspath(__file__)))
{needs}torch.jit.set_fusion_strategy([])  # else the first calls are slow and differ in the last digits
for name in {libraries}:  # what OpenMM could not load before torch was there
    library = os.path.join(version.openmm_library_path, "plugins", f"libOpenMMTorch{{name}}.so")
    if any(os.path.basename(library) in failure for failure in Platform.getPluginLoadFailures()):
        Platform.loadPluginLibrary(library)
system, integrator, state = (XmlSerializer.deserialize(open(f"{{name}}.xml").read()) for name in ("system", "integrator", "state"))
simulation = app.Simulation(app.PDBFile("topology.pdb").topology, system, integrator, Platform.getPlatformByName("{platform}"))
simulation.context.setState(state)
simulation.reporters.append(app.DCDReporter("trajectory.dcd", {interval}, enforcePeriodicBox=False))
simulation.reporters.append(app.StateDataReporter("log.csv", {interval}, step=True, potentialEnergy=True, temperature=True))
simulation.step({steps})
print(simulation.context.getState(energy=True).getPotentialEnergy())
"""


def _needs(origin: "Origin | None") -> str:
    """Lines that bring what an imported model needs where it is loaded."""
    if origin is None:
        return ""
    lines = [f"import {package}" for package in origin.packages]
    if origin.operators and origin.libraries:
        lines.append(
            f"for library in os.environ[{LIBRARIES_VARIABLE!r}].split(os.pathsep):  # {', '.join(origin.libraries)}\n"
            "    torch.ops.load_library(library)"
        )
    lines += [
        f"torch.library.define({schema.split('(')[0]!r}, {'(' + schema.split('(', 1)[1]!r})  # named, never called"
        for schema in origin.unused_operators
    ]
    return "".join(f"{line}\n" for line in lines)


# openmmtorch passes the network through a file here when a System becomes XML.
TEMPORARY = "/tmp"  # noqa: S108 - its choice, not ours


def _check_temporary_space(archive_size: int) -> None:
    """Raise SimulationError where openmmtorch would end the whole process for want of space."""
    free = shutil.disk_usage(TEMPORARY).free
    if free < 10 * archive_size:
        raise SimulationError(
            f"{TEMPORARY} has {free / 1e6:.1f} MB left, through which openmmtorch passes the network; free some space"
        )


def export_openmm(
    protocol: "Protocol",
    potential: "Potential",
    positions_nm: "np.ndarray",
    out: str | Path,
    *,
    length_ps: float | None = None,
    platform: str = "auto",
    seed: int | None = None,
    box_nm: "np.ndarray | None" = None,
) -> Path:
    """Write everything that plain OpenMM needs to run the first replica of a protocol.

    Args:
        protocol: integrator, length and structure.
        potential: the model; its network goes into system.xml.
        positions_nm: (n_atoms, 3), start.
        out: folder, made if needed.
        length_ps: of the script's run; the protocol's if None.
        platform: for the script, or ``auto``.
        seed: instead of the protocol's.
        box_nm: (3, 3), rows are box vectors, instead of those of the structure.

    Returns:
        The path of the script.

    Raises:
        SimulationError: files would be overwritten, or the protocol has metadynamics.
    """
    import numpy as np
    import openmm
    from openmm import app, unit

    if protocol.metadynamics is not None:
        raise SimulationError(
            f"protocol {protocol.name} has metadynamics, which a plain OpenMM script would silently leave out; "
            "export a variant without it, such as alanine-dipeptide-unbiased"
        )
    from openmm_mlbench.simulation.barostat import add_barostat, seed_barostat
    from openmm_mlbench.simulation.momenta import draw_velocities
    from openmm_mlbench.simulation.platforms import choose_platform
    from openmm_mlbench.simulation.seeds import barostat_seed, integrator_seed, velocity_generator

    folder = Path(out)
    script = folder / "run.py"
    if script.exists():
        raise SimulationError(f"{script} exists; give another folder, or remove it")
    _check_temporary_space(potential.archive.path.stat().st_size)
    seed = protocol.seed if seed is None else seed
    pdb = app.PDBFile(str(protocol.structure_path))
    if protocol.metadynamics is not None:
        raise SimulationError(
            f"protocol {protocol.name} has metadynamics, which this script cannot carry; run it with `openmm-mlbench simulate`"
        )
    constraints = {"none": None, "h-bonds": app.HBonds}[protocol.constraints]
    system = potential.create_system(pdb.topology, constraints=constraints, driver="torchforce")
    if protocol.ensemble == "NPT":
        add_barostat(system, protocol, pdb.topology, potential.description)
        seed_barostat(system, barostat_seed(seed, 0))
    integrator = protocol.make_integrator(integrator_seed(seed, 0))
    chosen = choose_platform(platform, system)
    masses = np.array(
        [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    )
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    if box_nm is not None and system.usesPeriodicBoundaryConditions():
        context.setPeriodicBoxVectors(*box_nm)
    context.setPositions(positions_nm)
    context.setVelocities(draw_velocities(masses, protocol.temperature_K, velocity_generator(seed, 0)))
    if system.getNumConstraints():
        context.applyConstraints(integrator.getConstraintTolerance())
        context.applyVelocityConstraints(integrator.getConstraintTolerance())
    state = context.getState(positions=True, velocities=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "system.xml", openmm.XmlSerializer.serialize(system))
    write_text(folder / "integrator.xml", openmm.XmlSerializer.serialize(integrator))
    write_text(folder / "state.xml", openmm.XmlSerializer.serialize(state))
    write_text(folder / "topology.pdb", protocol.structure_path.read_text(encoding="utf-8"))
    write_text(
        script,
        SCRIPT.format(
            needs=_needs(potential.card.origin),
            platform=chosen.name,
            # The CPU platform uses the Reference library.
            libraries=("Reference", chosen.name) if chosen.name in ("CUDA", "OpenCL") else ("Reference",),
            interval=protocol.steps_per_frame,
            steps=protocol.n_steps(length_ps),
        ),
    )
    return script
