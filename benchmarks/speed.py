"""Steps per second: the network alone, in OpenMM, and in an ASE loop, on the same weights in one run.

python benchmarks/speed.py                          every shipped model -> benchmarks/results/speed.json
python benchmarks/speed.py --rounds 3 -o out.json   a quick look

Variants take turns in short windows, so that whatever else the machine does falls on all of
them; the fastest window is the cost, the median tells how busy the machine was.  One thread,
velocity Verlet of 0.5 fs on the Reference platform, every window from the same state.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, provenance

from openmm_mlbench import Potential
from openmm_mlbench.data.datasets import load_dataset, system_of
from openmm_mlbench.export.archive import list_archives
from openmm_mlbench.files import write_json
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.momenta import draw_velocities
from openmm_mlbench.units import NM_PER_ANGSTROM

TIMESTEP_FS = 0.5
# The first calls of a scripted model compile and are up to 100 times as slow.
WARM_UP = 20
EVALUATIONS = ("autograd", "ahead-of-time")
# Runs so many steps from the start state.
Window = Callable[[int], None]


def start_state(dataset: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Topology, positions (nm) and velocities (nm/ps) of the system of a data set."""
    from openmm import app, unit

    system = system_of(dataset)
    protocol = load_protocol(system)
    topology = app.PDBFile(str(protocol.structure_path)).topology
    positions = load_dataset(f"{system}-gfn2").positions[0] * NM_PER_ANGSTROM
    masses = np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms()])
    return topology, positions, draw_velocities(masses, protocol.temperature_K, np.random.default_rng(0))


def module_window(potential: Potential, topology: Any, positions: np.ndarray, evaluation: str) -> Window:
    """Calls of the exported module as OpenMM makes them, without OpenMM."""
    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    # TorchForce freezes the module that it is given.
    module = torch.jit.freeze(potential.module(numbers, evaluation=evaluation).eval())
    here = torch.as_tensor(positions).requires_grad_()

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            energy, _ = module(here)
            energy.item()

    return run


def openmm_window(
    potential: Potential, topology: Any, positions: np.ndarray, velocities: np.ndarray, evaluation: str
) -> Window:
    """Steps of a Simulation with TorchForce."""
    import openmm
    from openmm import unit

    system = potential.create_system(topology, driver="torchforce", evaluation=evaluation)
    integrator = openmm.VerletIntegrator(TIMESTEP_FS * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))

    def run(n_steps: int) -> None:
        context.setPositions(positions)
        context.setVelocities(velocities)
        integrator.step(n_steps)

    return run


def ase_window(potential: Potential, topology: Any, positions: np.ndarray, velocities: np.ndarray) -> Window:
    """Steps of ASE's velocity Verlet."""
    import ase
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = ase.Atoms(numbers=[atom.element.atomic_number for atom in topology.atoms()])
    atoms.calc = potential.as_ase_calculator()
    dynamics = VelocityVerlet(atoms, timestep=TIMESTEP_FS * units.fs)

    def run(n_steps: int) -> None:
        atoms.positions = positions / NM_PER_ANGSTROM
        atoms.set_velocities(velocities * units.nm / (1000 * units.fs))
        dynamics.run(n_steps)

    return run


def windows_of(model: str) -> dict[str, Window]:
    """Every variant of one model."""
    potential = Potential.load(model)
    topology, positions, velocities = start_state(potential.card.trained_on.dataset)
    # Imported models have nothing to evaluate ahead of time.
    evaluations = EVALUATIONS if potential.card.origin is None else EVALUATIONS[:1]
    return {
        **{f"module, {e}": module_window(potential, topology, positions, e) for e in evaluations},
        **{f"OpenMM, {e}": openmm_window(potential, topology, positions, velocities, e) for e in evaluations},
        "ASE": ase_window(potential, topology, positions, velocities),
    }


def timed(window: Window, n_steps: int) -> tuple[float, float]:
    """Wall and process time per step, microseconds."""
    wall, process = time.perf_counter(), time.process_time()
    window(n_steps)
    wall, process = time.perf_counter() - wall, time.process_time() - process
    return 1e6 * wall / n_steps, 1e6 * process / n_steps


def measure(models: list[str], rounds: int, window_s: float) -> list[dict[str, Any]]:
    """Take turns through all variants of all models, round after round."""
    windows = {(model, name): window for model in models for name, window in windows_of(model).items()}
    steps, samples = {}, {}
    for key, window in windows.items():
        window(WARM_UP)
        steps[key] = max(1, round(1e6 * window_s / timed(window, WARM_UP)[0]))
        samples[key] = []
    for done in range(rounds):
        for key, window in windows.items():
            samples[key].append(timed(window, steps[key]))
        print(f"round {done + 1} of {rounds}", flush=True)
    return [
        {
            "id": model,
            "variants": {
                name: {**summary(samples[of, name]), "steps_per_window": steps[of, name]}
                for of, name in windows
                if of == model
            },
        }
        for model in models
    ]


def summary(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Minimum and median of both clocks."""
    return {
        f"{clock}_us_{name}": round(function(values), 2)
        for clock, values in zip(("wall", "process"), zip(*samples, strict=True), strict=True)
        for name, function in (("min", min), ("median", statistics.median))
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="ids or .pt files; every shipped model if none")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--window", type=float, default=0.3, help="seconds")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import openmm

    models = measure(arguments.models or list_archives(), arguments.rounds, arguments.window)
    settings = {
        "platform": "Reference",
        "timestep_fs": TIMESTEP_FS,
        "rounds": arguments.rounds,
        "window_s": arguments.window,
        "versions": {"torch": str(torch.__version__), "openmm": openmm.version.full_version},
    }
    write_json(arguments.out, {**provenance(), **settings, "models": models})
    print(arguments.out)


if __name__ == "__main__":
    main()
