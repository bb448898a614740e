"""The proof of an exported model: what was measured, beside its tolerance.

Claims of the card are gates; what a model does not claim is measured and shown.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from openmm_mlbench.errors import ModelError
from openmm_mlbench.export.ahead_of_time import specialise
from openmm_mlbench.export.archive import Archive
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.models.force_field import ALL_PAIRS_LIMIT
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

# Largest relative difference by dtype of the network: rounding of sums over some hundred terms.
TOLERANCES = {"float32": 2e-5, "float64": 1e-10}
# Central differences in float64 at 1e-5 nm are limited by the curvature, not by rounding.
FINITE_DIFFERENCE_TOLERANCE = 1e-5
# Of forces that are compared with differences of the energy: all of 30 atoms.  Each takes two evaluations.
MOST_COMPONENTS = 90
FLOAT32_TOLERANCE = 1e-4
# Of a slope along a direction, whose energies carry the rounding of the model's own precision.
SLOPE_TOLERANCES = {"float32": 2e-3, "float64": 1e-5}


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """One line of the table.

    Args:
        name: what was compared.
        measured: the largest relative difference found.
        tolerance: allowed, or None where the card claims nothing.
        passed: within the tolerance, or nothing claimed.
    """

    name: str
    measured: float
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """A NaN never passes a gate."""
        return self.tolerance is None or self.measured <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a check sends a model's calls through.

    Args:
        driver: ``torchforce``, ``pythonforce`` or ``auto``.
        platform: OpenMM platform, or ``auto``.
        precision: of the platform, or ``auto``.
        threads: of the processor, or None.
        note: is told in one line what was chosen.
    """

    driver: str = "auto"
    platform: str = "Reference"
    precision: str = "auto"
    threads: int | None = None
    note: Callable[[str], None] | None = None


class _Driven:
    """A model in OpenMM, as a simulation calls it."""

    def __init__(self, archive: Archive, setup: Setup) -> None:
        from openmm_mlbench.potential import Potential

        self.potential = Potential(archive, setup.driver)
        self.setup = setup
        # By atomic numbers and whether there is a box.
        self.contexts: dict[tuple[Any, ...], Any] = {}

    def __call__(self, numbers: Tensor, positions: Tensor, box: Tensor | None) -> tuple[Tensor, Tensor]:
        """Energy and forces of positions (n_atoms, 3) in a box (3, 3) or none, nm."""
        key = (tuple(numbers.tolist()), box is not None)
        if key not in self.contexts:
            self.contexts[key] = self._context(numbers.tolist(), box)
        context = self.contexts[key]
        if box is not None:
            context.setPeriodicBoxVectors(*box.numpy())
        context.setPositions(positions.double().numpy())
        state = context.getState(energy=True, forces=True)
        forces = torch.as_tensor(np.array(state.getForces(asNumpy=True)._value))  # noqa: SLF001
        return torch.tensor(state.getPotentialEnergy()._value, dtype=torch.float64), forces  # noqa: SLF001

    def _context(self, numbers: list[int], box: Tensor | None) -> Any:
        import openmm
        from openmm import app, unit

        from openmm_mlbench.simulation.platforms import choose_platform, create_context, limit_threads

        topology, system = app.Topology(), openmm.System()
        residue = topology.addResidue("X", topology.addChain())
        for number in numbers:
            topology.addAtom("X", app.Element.getByAtomicNumber(number), residue)
            system.addParticle(1.0)
        if box is not None:
            topology.setPeriodicBoxVectors(box.numpy() * unit.nanometer)
            system.setDefaultPeriodicBoxVectors(*box.numpy())
        system.addForce(self.potential.create_force(topology))
        setup = self.setup
        choice = choose_platform(
            setup.platform, system, setup.threads, setup.precision, engine=self.potential.engine
        )
        if setup.note is not None and not self.contexts:
            setup.note(choice.line)
        limit_threads(choice.threads)
        return create_context(system, openmm.VerletIntegrator(0.001), choice)


class _Checker:
    """Measurements on one structure; of an imported model on its script, because it has no eager form."""

    def __init__(
        self,
        archive: Archive,
        atomic_numbers: NDArray[np.int64],
        positions_nm: NDArray[np.float64],
        setup: Setup | None = None,
    ) -> None:
        self.archive = archive
        self.card = archive.card
        self.origin = archive.card.origin
        self.numbers = torch.as_tensor(atomic_numbers, dtype=torch.long)
        # Small displacements, so that no symmetry of the structure hides a force.
        noise = np.random.default_rng(0).normal(scale=0.005, size=positions_nm.shape)
        self.positions = torch.as_tensor(positions_nm + noise, dtype=torch.float64)
        self.model = self._with_numbers(
            archive.load_eager() if self.origin is None else archive.load_script().eval(), self.numbers
        )
        # Where a model serves nothing but periodic boxes, everything is measured in one.
        self.base_box = self._box() if self.origin is not None and not self.origin.open_space else None
        self.driven: _Driven | None = None
        self.energy, self.forces = self.evaluate(self.positions)
        self.force_size = float(self.forces.abs().max())
        # What is not a number goes on and passes no gate.
        if self.force_size == 0.0:
            raise ModelError(
                f"the largest force on {len(self.numbers)} atoms is 0 kJ/mol/nm, so there is nothing to compare; try the "
                "model on a structure like those that it was made for"
            )
        # Energies are compared on the scale of the interaction, not of the reference energy.  Where
        # the atoms' contributions cancel, the scale is their thermal energy at 300 K.
        thermal = len(self.numbers) * 300.0 * BOLTZMANN_KJMOL_K
        self.energy_size = max(abs(float(self.energy) - self._energy_of_free_atoms()), thermal)
        self.tolerance = TOLERANCES[self.card.dtype]
        # What has been measured so far is the model itself, which the driver is held to.
        if setup is not None:
            self.driven = _Driven(archive, setup)
            if setup.platform != "Reference":
                self.tolerance = FLOAT32_TOLERANCE

    @staticmethod
    def _with_numbers(module: Any, numbers: Tensor) -> Any:
        module.atomic_numbers = numbers
        return module

    def evaluate(self, positions: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces, in the base box if there is one and no other is given."""
        box = self.base_box if box is None else box
        if self.driven is not None:
            return self.driven(self.model.atomic_numbers, positions, box)
        energy, forces = self.model(positions) if box is None else self.model(positions, box)
        return energy, forces

    def _energy_of_free_atoms(self) -> float:
        if self.origin is None:
            return float(self.model.reference[self.numbers].sum() * self.model.kjmol_per_ev)
        total = 0.0
        # Atoms at the far corners of nothing: each by itself, in a box too large to matter where it needs one.
        far = None if self.origin.open_space else self.card.cutoff_A * torch.eye(3, dtype=torch.float64)
        for number, count in zip(*np.unique(self.numbers.numpy(), return_counts=True), strict=True):
            self.model.atomic_numbers = torch.tensor([int(number)])
            total += int(count) * float(self.evaluate(torch.zeros(1, 3, dtype=torch.float64), far)[0])
        self.model.atomic_numbers = self.numbers
        return total if np.isfinite(total) else 0.0

    def difference(
        self, energy: Tensor, forces: Tensor, energy_0: Tensor | None = None, forces_0: Tensor | None = None
    ) -> float:
        """Larger of the relative differences of energy and forces."""
        energy_0 = self.energy if energy_0 is None else energy_0
        forces_0 = self.forces if forces_0 is None else forces_0
        in_energy = float((energy - energy_0).abs()) / self.energy_size
        in_forces = float((forces.double() - forces_0.double()).abs().max()) / self.force_size
        return (
            float(np.fmax(in_energy, in_forces))
            if np.isfinite([in_energy, in_forces]).all()
            else float("nan")
        )

    def scripted(self) -> float:
        module = torch.jit.script(self.model)
        return self.difference(*module(self.positions))

    def reloaded(self) -> float:
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(self.model), buffer)
        buffer.seek(0)
        arguments = (self.positions,) if self.base_box is None else (self.positions, self.base_box)
        return self.difference(*torch.jit.load(buffer)(*arguments))

    def archived(self) -> float:
        module = self.archive.load_script()
        module.atomic_numbers = self.numbers
        return self.difference(*module(self.positions))

    def ahead_of_time(self) -> float:
        return self.difference(*specialise(self.model, self.positions)(self.positions))

    def in_openmm(self) -> float:
        """The model's driver on the Reference platform, or that of the check, as a Context sees it."""
        if self.driven is not None:
            return self.difference(*self.evaluate(self.positions))
        import openmm
        from openmm import unit

        from openmm_mlbench.forces.drivers import make_force

        module = self.archive.load_script().eval()
        module.atomic_numbers = self.numbers
        system = openmm.System()
        for _ in self.numbers:
            system.addParticle(1.0)
        if self.base_box is not None:
            system.setDefaultPeriodicBoxVectors(*self.base_box.numpy())
        driver = "auto" if self.origin is None else self.origin.driver
        system.addForce(make_force(module, periodic=self.base_box is not None, driver=driver))
        platform = openmm.Platform.getPlatformByName("Reference")
        try:
            context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
            context.setPositions(self.positions.numpy())
            state = context.getState(energy=True, forces=True)
        except openmm.OpenMMException:
            if self.origin is None:
                raise
            # A foreign module that its driver cannot run does not agree with itself there.
            return float("nan")
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
        return self.difference(torch.tensor(energy, dtype=torch.float64), torch.as_tensor(np.array(forces)))

    def _double(self) -> ExportedModel:
        return self._with_numbers(self.archive.load_eager().double(), self.numbers)

    def along_the_forces(self) -> float:
        """Forces against central differences of the energy, in the precision of an imported model.

        Along directions near that of the forces, where rounding of the energy weighs least; four
        energies of each leave an error of fifth order in the step.
        """
        generator = np.random.default_rng(3)
        step = 1e-3 if self.card.dtype == "float64" else 4e-3
        size = float(torch.linalg.vector_norm(self.forces.double()))
        worst = 0.0
        for _ in range(5):
            direction = self.forces.double() / size
            noise = torch.as_tensor(generator.normal(size=direction.shape))
            direction = direction + noise / torch.linalg.vector_norm(noise)
            direction /= torch.linalg.vector_norm(direction)
            energies = [
                float(self.evaluate(self.positions + k * step * direction)[0]) for k in (-2, -1, 1, 2)
            ]
            slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
            worst = max(worst, abs(slope + float((self.forces.double() * direction).sum())) / size)
        return worst

    def finite_differences(self) -> float:
        """Forces against central differences of the energy, in float64; of many atoms some components, at random."""
        model = self._double()
        _, forces = model(self.positions)
        step = 1e-5
        components = np.random.default_rng(4).permutation(forces.numel())[:MOST_COMPONENTS]
        worst = 0.0
        for atom, axis in (divmod(int(component), 3) for component in components):
            shifted = []
            for sign in (1.0, -1.0):
                moved = self.positions.clone()
                moved[atom, axis] += sign * step
                shifted.append(model(moved)[0])
            slope = float(shifted[0] - shifted[1]) / (2 * step)
            worst = max(worst, abs(slope + float(forces[atom, axis])))
        return worst / self.force_size

    def _transformed(self, matrix: NDArray[np.float64]) -> float:
        turned = torch.as_tensor(matrix)
        box = None if self.base_box is None else self.base_box @ turned.T
        energy, forces = self.evaluate(self.positions @ turned.T, box)
        return self.difference(energy, forces, forces_0=self.forces @ turned.T)

    def rotation(self) -> float:
        matrices = Rotation.random(3, random_state=1).as_matrix()
        return max(self._transformed(matrix) for matrix in matrices)

    def parity(self) -> float:
        return self._transformed(-np.eye(3))

    def permutation(self) -> float:
        """All atoms in reverse order, and equal atoms exchanged."""
        order = torch.arange(len(self.numbers) - 1, -1, -1)
        self.model.atomic_numbers = self.numbers[order]
        energy, forces = self.evaluate(self.positions[order])
        self.model.atomic_numbers = self.numbers
        return self.difference(energy, forces, forces_0=self.forces[order])

    def _box(self) -> Tensor:
        """A triclinic box whose height is below twice the cutoff, if the structure fits."""
        extent = float((self.positions.max(0).values - self.positions.min(0).values).max())
        edge = max(0.18 * self.card.cutoff_A, extent + 0.3)
        return edge * torch.tensor([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.3, 1.0]], dtype=torch.float64)

    def translation(self) -> float:
        shift = torch.tensor([0.31, -0.17, 0.23], dtype=torch.float64)
        return self.difference(*self.evaluate(self.positions + shift))

    def lattice_translation(self) -> float:
        box = self._box()
        energy, forces = self.evaluate(self.positions + box[1] - 2 * box[2], box)
        return self.difference(energy, forces, *self.evaluate(self.positions, box))

    def outside_the_box(self) -> float:
        """Every atom moved by its own lattice vector, up to three boxes away."""
        box = self._box()
        shifts = np.random.default_rng(2).integers(-3, 4, size=self.positions.shape)
        scattered = self.positions + torch.as_tensor(shifts, dtype=torch.float64) @ box
        energy, forces = self.evaluate(scattered, box)
        return self.difference(energy, forces, *self.evaluate(self.positions, box))

    def net_force(self) -> float:
        _, forces = self.evaluate(self.positions)
        return float(torch.linalg.vector_norm(forces.double().sum(0))) / self.force_size

    def float64(self) -> float:
        return self.difference(*self._double()(self.positions))

    def float32_positions(self) -> float:
        """The contract under single precision: dtype and memory layout of the forces."""
        positions = self.positions.float()
        energy, forces = (
            self.model(positions) if self.base_box is None else self.model(positions, self.base_box)
        )
        if forces.dtype != torch.float32 or energy.dtype != torch.float64 or not forces.is_contiguous():
            return float("nan")
        return self.difference(energy, forces)


_Plan = list[tuple[str, Callable[[], float], float | None]]


def _plan(checker: _Checker) -> _Plan:
    claims, tolerance = checker.card.claims, checker.tolerance
    small = 1 < len(checker.numbers) <= ALL_PAIRS_LIMIT
    return [
        ("scripted against eager", checker.scripted, tolerance),
        ("saved and reloaded against eager", checker.reloaded, tolerance),
        ("archive against eager", checker.archived, tolerance),
        *([("ahead-of-time against eager", checker.ahead_of_time, tolerance)] if small else []),
        ("in OpenMM against eager", checker.in_openmm, tolerance),
        ("permutation of atoms", checker.permutation, tolerance),
        ("translation by lattice vectors", checker.lattice_translation, tolerance),
        ("atoms outside the box", checker.outside_the_box, tolerance),
        ("float32 positions", checker.float32_positions, FLOAT32_TOLERANCE),
        ("float32 against float64", checker.float64, FLOAT32_TOLERANCE),
        (
            "forces against finite differences (conservative)",
            checker.finite_differences,
            FINITE_DIFFERENCE_TOLERANCE if claims.conservative else None,
        ),
    ]


def _plan_of_imported(checker: _Checker) -> _Plan:
    origin = checker.card.origin
    assert origin is not None
    tolerance = checker.tolerance
    periodic: _Plan = [
        ("translation by lattice vectors", checker.lattice_translation, tolerance),
        ("atoms outside the box", checker.outside_the_box, tolerance),
    ]
    return [
        ("saved and reloaded against archive", checker.reloaded, tolerance),
        ("in OpenMM against archive", checker.in_openmm, tolerance),
        ("permutation of atoms", checker.permutation, tolerance),
        ("translation", checker.translation, tolerance),
        *(periodic if origin.any_box else []),
        ("float32 positions", checker.float32_positions, FLOAT32_TOLERANCE),
        (
            "forces against finite differences (conservative)",
            checker.along_the_forces,
            SLOPE_TOLERANCES[checker.card.dtype] if checker.card.claims.conservative else None,
        ),
    ]


def check_archive(
    archive: Archive,
    atomic_numbers: NDArray[np.int64],
    positions_nm: NDArray[np.float64],
    *,
    setup: Setup | None = None,
    on_row: Callable[[CheckRow], None] | None = None,
) -> list[CheckRow]:
    """Measure everything that an exported model promises.

    Args:
        archive: the model.
        atomic_numbers: (n_atoms,), an ordinary structure of its species.
        positions_nm: (n_atoms, 3), nm.
        setup: that calls go through, in OpenMM, wherever they need not be eager; none if None.
        on_row: called after each measurement.

    Returns:
        One row per measurement; ``all(row.passed for row in rows)`` is the verdict.

    Raises:
        ModelError: a species of the structure is not among the model's.
        PotentialError: the driver does not work.
        SimulationError: platform, precision or threads cannot be had.
    """
    unseen = sorted({int(number) for number in atomic_numbers} - set(archive.card.species))
    if unseen:
        raise ModelError(
            f"{archive.id} does not know the atomic numbers {unseen}; give a structure made of {archive.card.species}"
        )
    checker = _Checker(archive, atomic_numbers, positions_nm, setup)
    claims, tolerance = archive.card.claims, checker.tolerance
    plan = _plan_of_imported(checker) if archive.card.origin is not None else _plan(checker)
    if setup is not None and archive.card.origin is None and claims.conservative:
        slope = max(SLOPE_TOLERANCES[archive.card.dtype], tolerance)
        plan.append(("forces against differences of the energy, in OpenMM", checker.along_the_forces, slope))
    plan += [
        ("rotation", checker.rotation, tolerance if claims.rotation else None),
        ("inversion (parity)", checker.parity, tolerance if claims.parity else None),
        ("net force", checker.net_force, tolerance if claims.zero_net_force else None),
    ]
    rows = []
    for name, measure, limit in plan:
        row = CheckRow(name=name, measured=measure(), tolerance=limit)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows
