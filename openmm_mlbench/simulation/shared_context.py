"""One Context for several replicas: block-diagonal copies of a System, each with its own thermostat.

OpenMM's Nose-Hoover counts 3N degrees of freedom for a thermostat of N atoms, and its CMMotionRemover
knows the whole System only, so that a NaN of one replica would reach all.  Here every thermostat is told
3N - 3, and the motion of each centre of mass is taken out frame by frame.  Forces between the atoms of a
replica do not move it; the noise of a Langevin thermostat does, without touching the internal motion.

A replica that is frozen out has no mass and no thermostat and stands at its start frame, where the model
is at home, while the graph keeps its shape: the others go on bit by bit as they would have.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import SimulationError
from openmm_mlbench.forces.copies import Copies
from openmm_mlbench.forces.drivers import drop_cuda_graphs
from openmm_mlbench.protocol import Protocol
from openmm_mlbench.simulation.checkpoint import engine_description, state_xml
from openmm_mlbench.simulation.momenta import velocity_lag_ps
from openmm_mlbench.simulation.platforms import (
    PlatformChoice,
    context_properties,
    create_context,
    limit_threads,
)
from openmm_mlbench.simulation.states import join_states, split_state
from openmm_mlbench.simulation.task import numbers

# The first calls of a TorchScript model are slow and differ in the last bits from all later ones.
WARM_UP_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class SharedFrame:
    """One configuration of all copies.

    Args:
        positions_nm: (n_copies, n_atoms, 3).
        velocities: (n_copies, n_atoms, 3), nm/ps.
        energies: (n_copies,), kJ/mol.
        forces: (n_copies, n_atoms, 3), kJ/mol/nm.
        box_nm: (3, 3) or None.
    """

    positions_nm: NDArray[np.float64]
    velocities: NDArray[np.float64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    box_nm: NDArray[np.float64] | None


class SharedContext:
    """The Context and what is done to all of its copies.

    Args:
        copies: System and energies of all copies.
        protocol: integrator and step.
        platform: where it runs.
        threads: of the processor.
        starts_nm: (n_copies, n_atoms, 3), the start frames.
        box_nm: (3, 3) that all share, or None.
    """

    context: Any
    integrator: Any
    live: list[int]

    def __init__(
        self,
        copies: Copies,
        protocol: Protocol,
        platform: PlatformChoice,
        threads: int,
        starts_nm: NDArray[np.float64],
        box_nm: NDArray[np.float64] | None,
    ) -> None:
        self.copies = copies
        self.protocol = protocol
        self.platform = platform
        self.threads = threads
        self.starts_nm = starts_nm
        self.box_nm = box_nm
        self.periodic = bool(copies.system.usesPeriodicBoundaryConditions())
        self.n_atoms = copies.n_atoms
        self.masses = np.array([numbers(copies.system.getParticleMass(i)) for i in range(self.n_atoms)])
        self.places: dict[int, range] = {
            copy: range(copy * self.n_atoms, (copy + 1) * self.n_atoms) for copy in range(copies.n_copies)
        }

    def make(self, live: list[int], seed: int) -> NDArray[np.float64]:
        """Make the Context, with all copies at their start frames; replaces the one before.

        Args:
            live: copies that move.
            seed: of a stochastic integrator.

        Returns:
            Energies of the start frames (n_copies,), kJ/mol.
        """
        import openmm

        limit_threads(self.threads)
        for copy, atoms in self.places.items():
            for atom, mass in zip(atoms, self.masses, strict=True):
                self.copies.system.setParticleMass(atom, mass if copy in live else 0.0)
        self.live = list(live)
        self.integrator = thermostats(self.protocol, [self.places[copy] for copy in live], seed)
        self.context = create_context(self.copies.system, self.integrator, self.platform)
        self._count_degrees_of_freedom()
        self.drifts = isinstance(self.integrator, openmm.LangevinMiddleIntegrator)
        self.lag_ps = velocity_lag_ps(self.integrator)
        self.properties = context_properties(self.context)
        try:
            energies = self._warm_up()
        except openmm.OpenMMException as error:
            if not drop_cuda_graphs(self.context, error):
                raise
            # A Context that was made anew has counted them by itself.
            self._count_degrees_of_freedom()
            energies = self._warm_up()
        self._note_centres()
        return energies

    def _count_degrees_of_freedom(self) -> None:
        """Of each replica's thermostat: without the motion of its centre of mass."""
        import openmm

        if isinstance(self.integrator, openmm.NoseHooverIntegrator):
            for chain in range(len(self.live)):
                self.integrator.getThermostat(chain).setNumDegreesOfFreedom(3 * self.n_atoms - 3)

    def _warm_up(self) -> NDArray[np.float64]:
        """Discarded force calls on the start frames; their energies, kJ/mol."""
        if self.periodic and self.box_nm is not None:
            self.context.setPeriodicBoxVectors(*self.box_nm)
        self.context.setPositions(self.starts_nm.reshape(-1, 3))
        for _ in range(WARM_UP_CALLS):
            self.context.getState(energy=True, forces=True)
            energies, _ = self.copies.evaluate(self.starts_nm, self.box())
        return energies

    def engine(self) -> dict[str, str]:
        """What has to be equal for a binary checkpoint to fit."""
        live = " ".join(map(str, self.live))
        # The size of a group makes a difference in the last bits.
        groups = f" in {self.copies.n_groups} groups" if self.copies.n_groups > 1 else ""
        return {
            **engine_description(self.context, self.properties),
            "copies": f"{live} of {self.copies.n_copies}" + groups,
        }

    def set_velocities(self, velocities: NDArray[np.float64]) -> None:
        """Start with these (n_copies, n_atoms, 3), nm/ps."""
        self.context.setVelocities(velocities.reshape(-1, 3))

    def advance(self, n_steps: int) -> SharedFrame:
        """Simulate so many steps, to a frame."""
        self.integrator.step(n_steps)
        self.rest()
        return self.observe()

    def rest(self) -> None:
        """Take the motion of every replica's centre of mass out; noise has moved it, so it is put back as well."""
        state = self.context.getState(positions=True, velocities=True)
        velocities = self._by_copy(numbers(state.getVelocities(asNumpy=True)))
        positions_nm = self._by_copy(numbers(state.getPositions(asNumpy=True)))
        for copy in self.live:
            if not (np.isfinite(velocities[copy]).all() and np.isfinite(positions_nm[copy]).all()):
                continue
            velocities[copy] -= self._centre(velocities[copy])
            if self.drifts:
                positions_nm[copy] -= self._centre(positions_nm[copy]) - self._centres[copy]
        if self.drifts:
            self.context.setPositions(positions_nm.reshape(-1, 3))
        self.context.setVelocities(velocities.reshape(-1, 3))
        self._note_centres()

    def observe(self) -> SharedFrame:
        """The present configuration: one evaluation of all copies."""
        state = self.context.getState(positions=True, velocities=True)
        positions_nm = self._by_copy(numbers(state.getPositions(asNumpy=True)))
        box_nm = self.box()
        energies, forces = self.copies.evaluate(positions_nm, box_nm)
        return SharedFrame(
            positions_nm=positions_nm,
            velocities=self._by_copy(numbers(state.getVelocities(asNumpy=True))),
            energies=energies,
            forces=forces,
            box_nm=box_nm,
        )

    def lost(self) -> list[int]:
        """Live copies whose positions or velocities are not finite."""
        state = self.context.getState(positions=True, velocities=True)
        values = numbers(state.getPositions(asNumpy=True)) + numbers(state.getVelocities(asNumpy=True))
        blocks = self._by_copy(values)
        return [copy for copy in self.live if not np.isfinite(blocks[copy]).all()]

    def culprits(self) -> dict[int, Exception]:
        """Live copies whose present configuration, by itself, makes the engine raise an error."""
        present_nm = self._by_copy(numbers(self.context.getState(positions=True).getPositions(asNumpy=True)))
        found = {}
        for copy in self.live:
            alone_nm = self.starts_nm.copy()
            alone_nm[copy] = present_nm[copy]
            try:
                self.context.setPositions(alone_nm.reshape(-1, 3))
                self.context.getState(energy=True, forces=True)
            except Exception as error:  # noqa: BLE001 - whatever the engine or the model raises
                found[copy] = error
        return found

    def content(self) -> bytes:
        """A binary checkpoint of all."""
        return bytes(self.context.createCheckpoint())

    def restore(self, content: bytes) -> None:
        """Go back to a binary checkpoint of this Context."""
        self.context.loadCheckpoint(content)
        self._note_centres()

    def states(self) -> dict[int, str]:
        """State XML of each live copy, as of a System of its own."""
        return split_state(state_xml(self.context), self.n_atoms, self.live)

    def set_states(self, states: dict[int, str]) -> None:
        """Go on from States of the live copies.

        Raises:
            SimulationError: they are of another System.
        """
        import openmm

        text = join_states(states, self.starts_nm)
        try:
            self.context.setState(openmm.XmlSerializer.deserialize(text))
        except (openmm.OpenMMException, ValueError) as error:
            raise SimulationError(
                f"the checkpoints of these replicas do not fit this System ({' '.join(str(error).split())}); "
                "resume with the model and protocol that the run began with"
            ) from error
        self._note_centres()

    def freeze(self, live: list[int], seed: int) -> None:
        """Go on with these copies only; the others stand still at their start frames from now on."""
        states = self.states()
        self.make(live, seed)
        self.set_states({copy: states[copy] for copy in live})

    def box(self) -> NDArray[np.float64] | None:
        """Box vectors (3, 3), nm, or None."""
        if not self.periodic:
            return None
        return np.asarray(numbers(self.context.getState().getPeriodicBoxVectors(asNumpy=True)))

    def _by_copy(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(values).reshape(self.copies.n_copies, self.n_atoms, 3)

    def _centre(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.masses @ vectors / self.masses.sum()

    def _note_centres(self) -> None:
        """From the positions themselves, so that a resumed run computes the same numbers."""
        if self.drifts:
            state = self.context.getState(positions=True)
            self._centres = [
                self._centre(x) for x in self._by_copy(numbers(state.getPositions(asNumpy=True)))
            ]


def thermostats(protocol: Protocol, blocks: list[range], seed: int) -> Any:
    """The protocol's integrator; of Nose-Hoover's, with a chain for each block of atoms."""
    import openmm

    single = protocol.make_integrator(seed)
    if not isinstance(single, openmm.NoseHooverIntegrator):
        return single
    chain = single.getThermostat(0)
    result = openmm.NoseHooverIntegrator(single.getStepSize())
    result.setConstraintTolerance(single.getConstraintTolerance())
    for atoms in blocks:
        result.addSubsystemThermostat(
            list(atoms),
            [],
            chain.getTemperature(),
            chain.getCollisionFrequency(),
            chain.getTemperature(),
            chain.getCollisionFrequency(),
            chain.getChainLength(),
            chain.getNumMultiTimeSteps(),
            chain.getNumYoshidaSuzukiTimeSteps(),
        )
    return result
