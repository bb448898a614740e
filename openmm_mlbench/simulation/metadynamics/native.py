"""Metadynamics with OpenMM's own forces.

The bias is a CustomCVForce whose energy is a periodic tabulated function of the dihedral
angles; the table is replaced after every hill.  (A CustomCompoundBondForce takes as long per
step and two to six times as long per hill.)
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.metadynamics import Metadynamics
from openmm_mlbench.simulation.metadynamics.hills import (
    COLVAR,
    HILLS,
    BiasGrid,
    HillsReader,
    colvar_header,
    colvar_line,
    cut_back,
    durable_sizes,
    hill_line,
    hills_header,
    parse_hill,
)


class BiasForce:
    """The force of a bias grid.

    Args:
        description: of the metadynamics.
        grid: its values; ``update`` brings later ones into a Context.
        group: force group.
        periodic: whether angles are taken between nearest images.
    """

    def __init__(self, description: Metadynamics, grid: BiasGrid, group: int, periodic: bool) -> None:
        import openmm

        self.grid = grid
        self.force = openmm.CustomCVForce(f"bias({', '.join(description.names)})")
        for variable in description.variables:
            angle = openmm.CustomTorsionForce("theta")
            angle.addTorsion(*variable.atoms)
            angle.setUsesPeriodicBoundaryConditions(periodic)
            self.force.addCollectiveVariable(variable.name, angle)
        kind = {1: openmm.Continuous1DFunction, 2: openmm.Continuous2DFunction}[len(description.variables)]
        self.force.addTabulatedFunction("bias", kind(*self._parameters(), True))
        self.force.setForceGroup(group)
        self.force.setName("Metadynamics")

    def update(self, context: Any) -> None:
        """Bring the grid's present values into a Context."""
        self.force.getTabulatedFunction(0).setFunctionParameters(*self._parameters())
        self.force.updateParametersInContext(context)

    def angles(self, context: Any) -> NDArray[np.float64]:
        """The variables (n_variables,), rad, at the Context's positions."""
        return np.array(self.force.getCollectiveVariableValues(context), dtype=np.float64)

    def energy(self, context: Any) -> float:
        """The bias at the Context's positions, kJ/mol."""
        import openmm

        state = context.getState(energy=True, groups={self.force.getForceGroup()})
        return float(state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole))

    def _parameters(self) -> list[Any]:
        shape = [n + 1 for n in self.grid.values.shape]
        ends = [end for _ in shape for end in (-np.pi, np.pi)]
        # A one-dimensional function knows its size from its values.
        return [*(shape if len(shape) > 1 else []), self.grid.table(), *ends]


class NativeBias:
    """The bias of one replica, by OpenMM alone; see bias.Bias.

    Args:
        description: of the metadynamics.
        timestep_ps: integration step.
        folder: of the replica.
        walkers: folders of all that share hills; this one's alone if none are shared.
        restart: lengths of the files to go on from; None begins new ones.
    """

    ahead_steps = 0

    def __init__(
        self,
        description: Metadynamics,
        timestep_ps: float,
        folder: Path,
        walkers: list[Path],
        restart: dict[str, int] | None,
    ) -> None:
        self.description = description
        self.timestep_ps = timestep_ps
        self.folder = folder
        self.restart = restart
        if restart is not None:
            cut_back(folder, restart)
        self.grid = BiasGrid(description)
        self.own = HillsReader(folder / HILLS, description)
        self.others = [HillsReader(other / HILLS, description) for other in walkers if other != folder]
        self.files: list[IO[str]] = []

    def add_to(self, system: Any) -> None:
        """Add the force to a System that has no Context yet.

        Raises:
            SimulationError: an atom does not exist, or no force group is free.
        """
        last = max(max(variable.atoms) for variable in self.description.variables)
        if last >= system.getNumParticles():
            raise SimulationError(
                f"metadynamics on atom {last}, but the system has {system.getNumParticles()}; atoms are counted from 0"
            )
        used = {force.getForceGroup() for force in system.getForces()}
        free = [group for group in range(32) if group not in used]
        if not free:
            raise SimulationError("all 32 force groups are in use; metadynamics wants one of its own")
        if self.restart is not None:
            self._rebuild()
        periodic = system.usesPeriodicBoundaryConditions()
        self.force = BiasForce(self.description, self.grid, free[-1], periodic)
        system.addForce(self.force.force)

    def log(self) -> AbstractContextManager[None]:
        """OpenMM keeps no log."""
        return nullcontext()

    def begin(self, context: Any) -> None:
        """Open the files; a new COLVAR starts with the first frame, as PLUMED's does."""
        self.context = context
        new = self.restart is None
        for name, header in ((HILLS, hills_header), (COLVAR, colvar_header)):
            file = open(self.folder / name, "w" if new else "a", encoding="utf-8", newline="\n")  # noqa: SIM115
            self.files.append(file)
            if new:
                file.write(header(self.description))
                file.flush()
        if new:
            self._write_row(0, *self._angles_and_bias())

    def advance(self, step: int, n_steps: int) -> None:
        """Simulate from this step on, with the hills that fall due on the way."""
        pace, end = self.description.pace_steps, step + n_steps
        integrator = self.context.getIntegrator()
        while step < end:
            n = min(end - step, pace - step % pace)
            integrator.step(n)
            step += n
            if step < end:
                self._deposit(step, *self._angles_and_bias())

    def end_frame(self, step: int) -> None:
        """Write the frame's row of COLVAR and the hill that is due at it."""
        angles, bias = self._angles_and_bias()
        # A collapsing frame leaves no trace that would spoil all that went before.
        if not (np.isfinite(angles).all() and np.isfinite(bias)):
            return
        self._write_row(step, angles, bias)
        if step % self.description.pace_steps == 0:
            self._deposit(step, angles, bias)

    def sync(self) -> dict[str, int]:
        """Make the files durable; their lengths in bytes."""
        return durable_sizes(self.folder)

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()

    def _angles_and_bias(self) -> tuple[NDArray[np.float64], float]:
        """The angles (n_variables,) and the bias there, kJ/mol, as the dynamics feels it."""
        return self.force.angles(self.context), self.force.energy(self.context)

    def _deposit(self, step: int, angles: NDArray[np.float64], bias: float) -> None:
        if np.isfinite(angles).all() and np.isfinite(bias):
            line = hill_line(self.description, step * self.timestep_ps, angles.tolist(), bias)
            self.grid.add(parse_hill(line, self.description, self.own.path))
            self.files[0].write(line)
            self.files[0].flush()
        if any(other.shrank() for other in self.others):
            self._rebuild()
        else:
            self._take_hills_of_others()
        self.force.update(self.context)

    def _write_row(self, step: int, angles: NDArray[np.float64], bias: float) -> None:
        self.files[1].write(colvar_line(step * self.timestep_ps, angles.tolist(), bias))
        self.files[1].flush()

    def _rebuild(self) -> None:
        """The grid from nothing but the files."""
        self.grid.clear()
        for reader in (self.own, *self.others):
            reader.offset = 0
        for row in self.own.new_hills():
            self.grid.add(row)
        self._take_hills_of_others()

    def _take_hills_of_others(self) -> None:
        for other in self.others:
            for row in other.new_hills():
                self.grid.add(row)
