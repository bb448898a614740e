"""Every loop that can drive a model, as windows to be timed."""

import dataclasses
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openmm_mlbench.errors import MLBenchError, ModelError
from openmm_mlbench.forces.drivers import make_force
from openmm_mlbench.simulation.platforms import PROCESSOR_PLATFORMS, choose_platform, create_context
from openmm_mlbench.speed.cases import Case
from openmm_mlbench.speed.clocks import Window
from openmm_mlbench.units import NM_PER_ANGSTROM

# The protocols' replicas.
COPIES = 5
# What each variant is, in the order of tables.
VARIANTS = {
    "network": "the exported module by itself, pair search included",
    "network, autograd": "the same evaluated by run-time autograd on searched lists",
    "torchforce": "a step of OpenMM, TorchForce",
    "torchforce, autograd": "the same evaluated by run-time autograd on searched lists",
    "pythonforce": "a step of OpenMM, PythonForce: the second driver",
    "torchforce, more threads": "a step of OpenMM, TorchForce, on all threads that a run may use",
    "ase": "a step of ASE's velocity Verlet that calls the same module",
    "ase, autograd": "the same with the network in eager PyTorch and run-time autograd, as research codes run it",
    "openmm-ml": "a step of a System that OpenMM-ML makes",
    "5 replicas": "a step of OpenMM that moves five copies of the system in one Context",
    "5 replicas, more threads": "the same on all threads that a run may use",
    "5 replicas, side by side": "the same in as many groups, each on a thread of its own",
    "engine": "a step of OpenMM, TorchForce on a module that computes nothing",
}


class _Nothing(nn.Module):
    """Zero energy and forces: what is left of a step is the engine."""

    def forward(
        self,
        positions: Tensor,
        box_vectors: Tensor | None = None,  # noqa: ARG002 - handed over in a box
    ) -> tuple[Tensor, Tensor]:
        """The contract of every exported module."""
        energy = torch.zeros((), dtype=torch.float64, device=positions.device)
        return energy, torch.zeros_like(positions.detach())


class Windows:
    """Windows of one case on one platform, and why some are missing.

    Args:
        case: the model on its system.
        platform: of OpenMM, or ``auto``.
        precision: of the platform, or ``auto``.
        threads: of torch and of the CPU platform.
        most_threads: that the batch and the single replica beside it also run on.
        original: of an imported model, the file that OpenMM-ML shall read.
        without: variants that shall be left out; the second driver compiles for a minute or more.
        note: hears what is being prepared.
    """

    def __init__(
        self,
        case: Case,
        *,
        platform: str = "auto",
        precision: str = "auto",
        threads: int = 1,
        most_threads: int = 1,
        original: Path | None = None,
        without: Collection[str] = (),
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        if platform in PROCESSOR_PLATFORMS:
            case = dataclasses.replace(case, potential=case.potential.on("cpu"))
        self.case = case
        self.threads = threads
        self.most_threads = most_threads
        self.original = original
        self.asked = platform
        self.precision = precision
        self.platform = ""
        self.properties: dict[str, str] = {}
        self.windows: dict[str, Window] = {}
        self.missing: dict[str, str] = {}
        self._systems: dict[tuple[str, ...], Any] = {}
        self.module: torch.jit.ScriptModule | None = None
        self.arguments: list[Tensor] = []
        makers: dict[str, Callable[[], Window]] = {
            "torchforce": lambda: self._steps(self._system("torchforce", "auto")),
            "network": lambda: self._calls("auto"),
            "torchforce, autograd": lambda: self._steps(self._system("torchforce", "autograd")),
            "network, autograd": lambda: self._calls("autograd"),
            "pythonforce": lambda: self._steps(self._system("pythonforce", "auto")),
            "ase": lambda: self._ase(case.potential.as_ase_calculator()),
            "ase, autograd": lambda: self._ase(self._eager_calculator()),
            "openmm-ml": lambda: self._steps(self._openmmml()),
            "5 replicas": lambda: self._steps(self._copies(), copies=COPIES),
            "torchforce, more threads": lambda: self._steps(
                self._system("torchforce", "auto"), threads=self._more_threads()
            ),
            "5 replicas, more threads": lambda: self._steps(
                self._copies(), copies=COPIES, threads=self._more_threads()
            ),
            "5 replicas, side by side": lambda: self._steps(
                self._copies(self.groups(self._more_threads())), copies=COPIES, threads=self.threads
            ),
            "engine": lambda: self._steps(self._empty_system()),
        }
        for name, make in makers.items():
            if name in without:
                self.missing[name] = "left out"
                continue
            note(f"{case.model} on {case.system}: {name}")
            try:
                self.windows[name] = self._on(make(), most_threads if "more threads" in name else threads)
            except (MLBenchError, ImportError) as error:
                # The main road has to be there.
                if name == "torchforce":
                    raise
                self.missing[name] = " ".join(str(error).split())
        self.windows = {name: self.windows[name] for name in VARIANTS if name in self.windows}

    @property
    def device(self) -> torch.device:
        """Where the module runs on this platform."""
        return torch.device("cuda" if self.platform == "CUDA" else "cpu")

    def _on(self, window: Window, threads: int) -> Window:
        """A window on so many threads of torch; in between others run on other numbers."""

        def start() -> None:
            torch.set_num_threads(threads)
            window.start()

        return Window(window.run, start)

    def _more_threads(self) -> int:
        if self.device.type == "cuda":
            raise ModelError("a GPU does the work of threads")
        if self.most_threads <= self.threads:
            raise ModelError(f"a run may use {self.most_threads} here")
        return self.most_threads

    def call(self) -> tuple[Tensor, Tensor]:
        """One call of the exported module as it runs by default."""
        assert self.module is not None
        energy, forces = self.module(*self.arguments)
        return energy, forces

    def _calls(self, evaluation: str) -> Window:
        case = self.case
        script = case.potential.module(
            case.atomic_numbers,
            periodic=case.box_nm is not None,
            evaluation=evaluation,
            **_positions_for(case.potential.module, case),
        )
        # TorchForce moves and freezes the module that it is given; what is frozen does not move.
        module = torch.jit.freeze(script.to(self.device).eval())
        # OpenMM's GPU platforms hand over single precision, Reference double with a gradient nobody reads.
        on_gpu = self.device.type == "cuda"
        where = torch.as_tensor(case.positions_nm, device=self.device)
        arguments = [where.float() if on_gpu else where.requires_grad_()]
        if case.box_nm is not None:
            arguments.append(torch.as_tensor(case.box_nm, device=self.device).to(arguments[0].dtype))
        if evaluation == "auto":
            self.module, self.arguments = module, arguments

        return call_window(module, arguments)

    def _system(self, driver: str, evaluation: str) -> Any:
        case = self.case

        def make() -> Any:
            return case.potential.create_system(
                case.topology,
                driver=driver,
                evaluation=evaluation,
                **_positions_for(case.potential.create_system, case),
            )

        return self._once((driver, evaluation), make)

    @staticmethod
    def groups(threads: int) -> int:
        """Groups of replicas on so many threads."""
        return min(threads, COPIES)

    def _copies(self, n_groups: int = 1) -> Any:
        case = self.case

        def make() -> Any:
            return case.potential.create_copies(case.topology, COPIES, n_groups).system

        return self._once(("copies", str(n_groups)), make)

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """A System that two variants run: tracing a large network takes a while."""
        if key not in self._systems:
            self._systems[key] = make()
        return self._systems[key]

    def _empty_system(self) -> Any:
        import openmm

        system = openmm.System()
        for atom in self.case.topology.atoms():
            system.addParticle(atom.element.mass)
        if self.case.box_nm is not None:
            system.setDefaultPeriodicBoxVectors(*self.case.topology.getPeriodicBoxVectors())
        module = torch.jit.script(_Nothing()).eval()
        system.addForce(make_force(module, periodic=self.case.box_nm is not None, driver="torchforce"))
        system.addForce(openmm.CMMotionRemover())
        return system

    def _openmmml(self) -> Any:
        from openmmml import MLPotential

        potential, topology = self.case.potential, self.case.topology
        origin = potential.card.origin
        if origin is None:
            path = str(potential.archive.path)
            return MLPotential("openmm-mlbench", model=path).createSystem(topology)
        if origin.kind not in ("nequip", "mace"):
            raise ImportError(f"OpenMM-ML reads no models of {origin.kind}")
        if self.original is None:
            raise ImportError(
                f"give the {origin.kind} file itself (--original): OpenMM-ML cannot read an import"
            )
        return MLPotential(origin.kind, modelPath=str(self.original)).createSystem(topology)

    def _steps(self, system: Any, copies: int = 1, threads: int | None = None) -> Window:
        import openmm
        from openmm import unit

        case = self.case
        integrator = openmm.VerletIntegrator(case.timestep_fs * unit.femtosecond)
        choice = choose_platform(self.asked, system, threads or self.threads, self.precision)
        context = create_context(system, integrator, choice)
        if threads is None:
            self.platform, self.properties = choice.name, dict(choice.properties)

        positions = np.tile(case.positions_nm, (copies, 1))
        velocities = np.tile(case.velocities_nm_ps, (copies, 1))

        def start() -> None:
            context.setPositions(positions)
            context.setVelocities(velocities)

        def run(n_steps: int) -> None:
            integrator.step(n_steps)
            # A GPU works on after step has returned.
            context.getState(positions=True)

        return Window(run, start)

    def _eager_calculator(self) -> Any:
        from openmm_mlbench.speed.eager_calculator import EagerCalculator

        return EagerCalculator(self.case.potential)

    def _ase(self, calculator: Any) -> Window:
        import ase
        from ase import units
        from ase.md.verlet import VelocityVerlet

        case = self.case
        cell = None if case.box_nm is None else case.box_nm / NM_PER_ANGSTROM
        atoms = ase.Atoms(numbers=case.atomic_numbers, cell=cell, pbc=cell is not None)
        atoms.calc = calculator
        dynamics = VelocityVerlet(atoms, timestep=case.timestep_fs * units.fs)

        def start() -> None:
            atoms.positions = case.positions_nm / NM_PER_ANGSTROM
            atoms.set_velocities(case.velocities_nm_ps * units.nm / (1000.0 * units.fs))
            # ASE wants the forces of the start state: one call more than there are steps.
            atoms.get_forces()

        return Window(dynamics.run, start)


def call_window(module: torch.jit.ScriptModule, arguments: list[Tensor]) -> Window:
    """Calls of a module from Python."""

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            energy, _ = module(*arguments)
            # Waits for a GPU, as OpenMM does.
            energy.item()

    return Window(run)


def _positions_for(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """The start state, by the names that the function has for it: fixed shapes are made from one."""
    start = {"positions": case.positions_nm, "positions_nm": case.positions_nm, "box_nm": case.box_nm}
    return {name: start[name] for name in inspect.signature(function).parameters if name in start}
