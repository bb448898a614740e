"""A learned force field in any OpenMM script.

from openmm_mlbench import Potential
system = Potential.load("ethanol/schnet").create_system(topology)
"""

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import app, unit

from openmm_mlbench.errors import ModelError, PotentialError
from openmm_mlbench.export.ahead_of_time import both_forms, specialise, specialise_open, specialise_periodic
from openmm_mlbench.export.analytic import ANALYTIC, ANALYTIC_MOLECULES, analytic, specialise_analytic
from openmm_mlbench.export.archive import Archive, find_archive
from openmm_mlbench.export.block_diagonal import call_copies, script_copies, side_by_side, trace_copies
from openmm_mlbench.export.card import Card, Origin
from openmm_mlbench.export.compiled import compile_molecule
from openmm_mlbench.forces.copies import Copies, Evaluate
from openmm_mlbench.forces.drivers import FIXED_LISTS, Engine, choose_driver, make_force, uses_cuda_graphs
from openmm_mlbench.forces.platforms import prepare_platforms
from openmm_mlbench.models.force_field import ALL_PAIRS_LIMIT
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.units import NM_PER_ANGSTROM

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

DEVICES = ("auto", "cpu", "cuda")
EVALUATIONS = ("auto", "autograd", "ahead-of-time", "fixed-shapes", "analytic")
# A box that shrank below this part of its heights may need images that fixed lists do not have.
_SHRINK = 0.99


class Potential:
    """An exported model, ready to become forces of an OpenMM System.

    Args:
        archive: where it lies; use :meth:`load`.
        driver: of its forces where none is asked for: ``torchforce``, ``pythonforce`` or ``auto``.
        device: where torch evaluates it, apart from a TorchForce, which follows its platform: ``cpu``, ``cuda``, or
            ``auto``: the GPU where there is one.

    Attributes:
        id: shipped id or path.
        card: what the model is and claims.
        description: what a run folder records about it.
        engine: what evaluates the force that was made last, or None.
    """

    # What a simulation begins with makes a difference to the forces.
    takes_positions: ClassVar[bool] = True

    def __init__(self, archive: Archive, driver: str = "auto", device: str = "auto") -> None:
        self.archive = archive
        self.driver = driver
        has_gpu = torch.cuda.is_available()
        if device not in DEVICES or (device == "cuda" and not has_gpu):
            raise PotentialError(
                f"device {device!r} is not here; use one of {', '.join(DEVICES if has_gpu else ('auto', 'cpu'))}"
            )
        self.device = ("cuda" if has_gpu else "cpu") if device == "auto" else device
        self.engine: Engine | None = None
        self.id = archive.id
        self.card: Card = archive.card
        self.description: dict[str, Any] = {
            "model": self.id,
            "archive_sha256": archive.sha256,
            "dataset": self.card.trained_on.dataset,
            "card": dataclasses.asdict(self.card),
        }

    @classmethod
    def load(cls, id_or_path: str | Path, driver: str = "auto", device: str = "auto") -> "Potential":
        """Find a shipped model by id, or an archive by path, and read its card.

        Args:
            id_or_path: of the model.
            driver: of its forces: ``torchforce``, ``pythonforce`` or ``auto``.
            device: see :class:`Potential`; ``cpu`` on a machine with a GPU that the Context will not run on.

        Raises:
            ModelError: missing or damaged.
            PotentialError: no such device here.
        """
        prepare_platforms()
        return cls(find_archive(id_or_path), driver, device)

    def on(self, device: str) -> "Potential":
        """The same model evaluated elsewhere: on ``cpu``, ``cuda`` or ``auto``."""
        return Potential(self.archive, self.driver, device)

    def module(
        self,
        atomic_numbers: Sequence[int],
        *,
        atoms: Sequence[int] | None = None,
        periodic: bool = False,
        evaluation: str = "auto",
        positions_nm: NDArray[np.float64] | None = None,
        box_nm: NDArray[np.float64] | None = None,
    ) -> torch.jit.ScriptModule:
        """The TorchScript module for these atoms.

        Args:
            atomic_numbers: (n_selected,), in order.
            atoms: places of the selected atoms in the System, or None for all.
            periodic: whether box vectors will be given.
            evaluation: ``ahead-of-time`` (all pairs, no autograd at run time; up to 50 atoms in open
                space), ``fixed-shapes`` (the same for boxes and large molecules, with lists of fixed length that suit
                ``positions_nm``), ``autograd`` (pairs are searched and gradients taken at each call), or
                ``auto``: the first for as few atoms as the network's ``all_pairs_up_to``; else the third, and where there
                is a GPU a module with two forms, which does this on a processor and on a GPU the first or, with
                positions, the second.  On a processor SchNet, DeepPot-SE and, where pairs are searched, NequIP,
                DimeNet and GemNet-T run as ``analytic``: gradients by hand, the former two's radial networks from tables.
            positions_nm: (n_selected, 3), an ordinary configuration in the box.
            box_nm: (3, 3), its box.
        """
        if evaluation not in EVALUATIONS:
            raise PotentialError(
                f"evaluation {evaluation!r} is not known; use one of {', '.join(EVALUATIONS)}"
            )
        self._check_species(atomic_numbers)
        numbers = torch.tensor(list(atomic_numbers), dtype=torch.long)
        places = torch.tensor([] if atoms is None else list(atoms), dtype=torch.long)
        static = not periodic and 1 < len(numbers) <= ALL_PAIRS_LIMIT
        if self.card.origin is not None:
            self._check_imported(self.card.origin, periodic=periodic, evaluation=evaluation)
            # What stands in somebody else's module is not ours to trace.
            static = False
        if evaluation == "ahead-of-time" and not static:
            raise PotentialError(
                f"ahead-of-time evaluation serves 2 to {ALL_PAIRS_LIMIT} atoms without a periodic box, got "
                f"{len(numbers)} atoms{' in a box' if periodic else ''}; use evaluation='autograd'"
            )
        few = static and self._few(len(numbers))
        if evaluation == "ahead-of-time" or (few and evaluation in ("auto", "analytic")):
            return self._specialised(numbers, places, evaluation)
        if static and evaluation == "auto":
            on_gpu = self.device != "cpu"
            fixed = self._specialised(numbers, places, "ahead-of-time") if on_gpu else None
        else:
            fixed = self._fixed_shapes(numbers, places, evaluation, positions_nm, box_nm)
        if fixed is not None and evaluation == "fixed-shapes":
            return fixed
        searched = self._searched(numbers, places, evaluation)
        return searched if fixed is None else both_forms(fixed, searched, periodic=periodic)

    def _few(self, n_atoms: int) -> bool:
        """Whether a processor compares all atoms of a molecule with all."""
        return n_atoms <= ARCHITECTURES[self.card.model].all_pairs_up_to

    def _specialised(
        self, numbers: torch.Tensor, atoms: torch.Tensor, evaluation: str
    ) -> torch.jit.ScriptModule:
        """The form for a small molecule, whose pairs are always the same."""
        model = self.archive.load_eager()
        model.atomic_numbers, model.atoms = numbers, atoms
        example = _spread_positions(len(numbers))
        if evaluation == "analytic" or (evaluation == "auto" and self.card.model in ANALYTIC_MOLECULES):
            try:
                return specialise_analytic(model, example)
            except ModelError:
                if evaluation == "analytic":
                    raise
        return specialise(model, example)

    def _searched(
        self, numbers: torch.Tensor, atoms: torch.Tensor, evaluation: str
    ) -> torch.jit.ScriptModule:
        """The form that searches its pairs at each call."""
        if self.card.origin is not None:
            script = self.archive.load_script().eval()
            script.atomic_numbers, script.atoms = numbers, atoms
            return script
        # Our own networks run as this version of the package writes them, not as the one that exported them did.
        model = self.archive.load_eager()
        model.atomic_numbers, model.atoms = numbers, atoms
        if evaluation == "analytic" or (evaluation == "auto" and self.card.model in ANALYTIC):
            try:
                return analytic(model)
            except ModelError:
                if evaluation == "analytic":
                    raise
        return torch.jit.script(model)

    def _fixed_shapes(
        self,
        numbers: torch.Tensor,
        atoms: torch.Tensor,
        evaluation: str,
        positions_nm: NDArray[np.float64] | None,
        box_nm: NDArray[np.float64] | None,
    ) -> torch.jit.ScriptModule | None:
        """The form with lists of fixed length, where it is asked for or of use."""
        if positions_nm is None:
            if evaluation == "fixed-shapes":
                raise PotentialError(
                    "fixed-shapes evaluation needs positions=, which say how long the neighbour lists have to be; give "
                    "them, or use evaluation='auto'"
                )
            return None
        if evaluation != "fixed-shapes" and (
            evaluation != "auto" or self.card.origin is not None or self.device == "cpu"
        ):
            return None
        model = self.archive.load_eager()
        model.atomic_numbers, model.atoms = numbers, atoms
        positions = torch.as_tensor(positions_nm)
        if box_nm is None and len(numbers) < 2:
            if evaluation == "fixed-shapes":
                raise PotentialError("a single atom has no neighbours to list; use evaluation='auto'")
            return None
        if box_nm is None:
            return specialise_open(model, positions)
        return specialise_periodic(model, positions, torch.as_tensor(box_nm), shrink=_SHRINK)

    def _compiled(
        self, atomic_numbers: Sequence[int], atoms: Sequence[int] | None, *, periodic: bool
    ) -> tuple[Any, str]:
        """Machine code for a PythonForce and how it came about, or None and why there is none."""
        if self.card.origin is not None:
            return None, ""
        limit = ALL_PAIRS_LIMIT if self.device != "cpu" else ARCHITECTURES[self.card.model].compiled_up_to
        if periodic or not 1 < len(atomic_numbers) <= limit:
            n_atoms = len(atomic_numbers)
            if not periodic and n_atoms > 1 and self._few(n_atoms):
                return None, f"not compiled: above {limit} atoms its tables are faster"
            return None, "not compiled: its pair list has no fixed length"
        self._check_species(atomic_numbers)
        numbers = torch.tensor(list(atomic_numbers), dtype=torch.long)
        places = torch.tensor([] if atoms is None else list(atoms), dtype=torch.long)
        try:
            start = _spread_positions(len(numbers))
            module = compile_molecule(self.archive, numbers, places, start, self.device)
        except ModelError as error:
            return None, f"not compiled, and slower: {error}"
        return module, module.note

    def add_to(
        self,
        system: openmm.System,
        topology: app.Topology,
        atoms: Iterable[int] | None = None,
        *,
        force_group: int = 0,
        driver: str = "auto",
        evaluation: str = "auto",
        positions: Any = None,
    ) -> openmm.Force:
        """Add the learned force to a System and return it.

        Args:
            system: with a particle for every atom of the topology.
            topology: elements and box.
            atoms: places of the atoms it acts on, or None for all.
            force_group: of the new force.
            driver: see :func:`openmm_mlbench.forces.drivers.make_force`.
            evaluation: see :meth:`module`.
            positions: (n_atoms, 3) of all atoms, nm or a quantity: where a simulation begins.  In a box, and
                above 50 atoms, they give a GPU neighbour lists of fixed length, which need no word from the host; a System with a
                barostat gets searched ones all the same: add the barostat first.

        Raises:
            PotentialError: an element, the box or an index does not fit, or a bond is free that
                was rigid in the model's training data.
        """
        n_particles, n_atoms = system.getNumParticles(), topology.getNumAtoms()
        if n_particles != n_atoms:
            raise PotentialError(
                f"the System has {n_particles} particles, the topology {n_atoms} atoms; give the pair that belongs together"
            )
        chosen = None if atoms is None else list(atoms)
        if any(_changes_the_box(force) for force in system.getForces()):
            if evaluation == "fixed-shapes":
                raise PotentialError(
                    "this System has a barostat, and neighbour lists of fixed length would forbid volumes that its pressure "
                    "allows; use evaluation='auto'"
                )
            positions = None
        force = self.create_force(
            topology,
            chosen,
            force_group=force_group,
            driver=driver,
            evaluation=evaluation,
            positions=positions,
        )
        self.check_rigid_bonds(system, chosen)
        system.addForce(force)
        return force

    def create_force(
        self,
        topology: app.Topology,
        atoms: Iterable[int] | None = None,
        *,
        force_group: int = 0,
        driver: str = "auto",
        evaluation: str = "auto",
        positions: Any = None,
    ) -> openmm.Force:
        """The learned force by itself; arguments and errors as of :meth:`add_to`."""
        everything = list(topology.atoms())
        if not everything:
            raise PotentialError("the topology has no atoms; give the molecule that is to be simulated")
        chosen = None if atoms is None else [int(place) for place in atoms]
        if chosen is not None and (
            not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= len(everything)
        ):
            raise PotentialError(
                f"atoms must be different places in 0-{len(everything) - 1}, at least one; got {chosen[:10]}"
            )
        numbers = []
        for place in range(len(everything)) if chosen is None else chosen:
            element = everything[place].element
            if element is None:
                raise PotentialError(
                    f"atom {place} ({everything[place].name}) has no element; give the topology real elements"
                )
            numbers.append(element.atomic_number)
        box = topology.getPeriodicBoxVectors()
        if box is not None:
            self.check_box(box)
        driver = self.driver if driver == "auto" else driver
        start_nm, box_nm = _start(positions, chosen, box, len(everything))
        driver = self._own_driver(driver)
        chosen_driver, reason = choose_driver(driver)
        module, note = None, ""
        if chosen_driver == "pythonforce" and evaluation == "auto":
            module, note = self._compiled(numbers, chosen, periodic=box is not None)
        if module is None:
            module = self.module(
                numbers,
                atoms=chosen,
                periodic=box is not None,
                evaluation=evaluation,
                positions_nm=start_nm,
                box_nm=box_nm,
            )
        force = make_force(module, periodic=box is not None, driver=chosen_driver, device=self.device)
        self.engine = Engine(
            driver=chosen_driver, reason=reason, cuda_graphs=uses_cuda_graphs(force), note=note
        )
        force.setForceGroup(force_group)
        static = box is None and 1 < len(numbers) <= ALL_PAIRS_LIMIT and evaluation != "fixed-shapes"
        fixed = not static and getattr(module, "capturable", False)
        force.setName(f"openmm-mlbench {self.id}" + (FIXED_LISTS if fixed else ""))
        return force

    def _own_driver(self, driver: str) -> str:
        """The driver asked for, or the only one that an imported model works with."""
        origin = self.card.origin
        if origin is None or origin.driver != "pythonforce":
            return driver
        if driver == "torchforce":
            raise PotentialError(
                f"TorchForce gives other numbers than {self.id} itself; use driver 'auto' or 'pythonforce'"
            )
        return origin.driver

    def create_system(
        self,
        topology: app.Topology,
        constraints: Any = None,
        removeCMMotion: bool = True,
        hydrogenMass: Any = None,
        driver: str = "auto",
        evaluation: str = "auto",
        positions: Any = None,
    ) -> openmm.System:
        """A System whose only interactions are learned; keywords as of ``ForceField.createSystem``.

        Args:
            topology: elements, box if periodic, and bonds where hydrogenMass needs them.
            constraints: None or ``app.HBonds``, whichever the labels of the model were made with;
                the lengths are those of its training data.
            removeCMMotion: add a CMMotionRemover.
            hydrogenMass: mass of hydrogens, taken from the atom each is bonded to.
            driver: ``torchforce``, ``pythonforce`` or ``auto``.
            evaluation: see :meth:`module`.
            positions: see :meth:`add_to`.

        Raises:
            PotentialError: an element, the box or the constraints do not fit the model.
        """
        constrained = self.constraints(topology, constraints)
        system = self._particles(topology)
        if hydrogenMass is not None:
            _move_mass_to_hydrogens(system, topology, hydrogenMass)
        for i, j, length_A in constrained:
            system.addConstraint(i, j, length_A * NM_PER_ANGSTROM)
        self.add_to(system, topology, driver=driver, evaluation=evaluation, positions=positions)
        if removeCMMotion:
            system.addForce(openmm.CMMotionRemover())
        return system

    def create_copies(self, topology: app.Topology, n_copies: int, n_groups: int = 1) -> Copies:
        """Several replicas of the molecule or box as one System and one evaluation of the network.

        Args:
            topology: of one replica; a box is one that all replicas share.
            n_copies: how many.
            n_groups: of copies that a processor evaluates at the same time, each by a thread of its own; 1 to n_copies.

        Raises:
            PotentialError: a model that wants constraints, or what :meth:`create_system` raises.
        """
        if not 1 <= n_groups <= n_copies:
            raise PotentialError(f"{n_copies} copies in {n_groups} groups; use 1 to {n_copies} groups")
        self.constraints(topology, None)
        system = self._particles(topology, n_copies)
        atomic_numbers = [atom.element.atomic_number for atom in topology.atoms()]
        self._check_species(atomic_numbers)
        periodic = topology.getPeriodicBoxVectors() is not None
        n_atoms = len(atomic_numbers)
        masses = torch.tensor([system.getParticleMass(i)._value for i in range(n_atoms)])  # noqa: SLF001
        static = not periodic and 1 < n_atoms <= ALL_PAIRS_LIMIT
        few = self.card.origin is None and static and self._few(n_atoms)
        if self.card.origin is not None or (self.device == "cpu" and not few):
            # Somebody else's module takes one at a time; and large ones gain nothing together on a processor.
            one = self.module(atomic_numbers, periodic=periodic)
            net_force = not self.card.claims.zero_net_force

            def make(copies: int) -> torch.jit.ScriptModule:
                return call_copies(one, copies, masses, net_force=net_force)
        else:
            model = self.archive.load_eager()
            model.atomic_numbers = torch.tensor(atomic_numbers, dtype=torch.long)

            def make(copies: int) -> torch.jit.ScriptModule:
                if not static:
                    return script_copies(model, copies, masses)
                tables = self.card.model in ANALYTIC_MOLECULES
                return trace_copies(model, _spread_positions(n_atoms), copies, masses, tables=tables)

        module = side_by_side(make, n_copies, n_groups)
        driver, _ = choose_driver(self._own_driver(self.driver))
        if driver == "pythonforce" and self.card.origin is None:
            raise PotentialError(
                "code compiled for driver pythonforce takes one molecule at a time, and without it replicas together are slower"
            )
        force = make_force(module, periodic=periodic, driver=driver, device=self.device)
        force.setName(f"openmm-mlbench {self.id}, {n_copies} copies")
        system.addForce(force)
        return Copies(
            system=system,
            n_copies=n_copies,
            evaluate=_evaluation_by_copy(module, n_copies, torch.device(self.device)),
            n_groups=n_groups,
        )

    def _particles(self, topology: app.Topology, n_copies: int = 1) -> openmm.System:
        """A System with the masses of the topology's atoms, as often as asked for, and its box."""
        system = openmm.System()
        for _ in range(n_copies):
            for atom in topology.atoms():
                if atom.element is None:
                    raise PotentialError(
                        f"atom {atom.index} ({atom.name}) has no element; give the topology real elements"
                    )
                system.addParticle(atom.element.mass)
        box = topology.getPeriodicBoxVectors()
        if box is not None:
            self.check_box(box)
            try:
                system.setDefaultPeriodicBoxVectors(*box)
            except openmm.OpenMMException as error:
                raise PotentialError(
                    f"OpenMM refuses the box ({error}); rotate box and positions so that the box is reduced"
                ) from error
        return system

    def as_ase_calculator(self) -> "Calculator":
        """The same model as a calculator of ASE."""
        from openmm_mlbench.ase_calculator import MLBenchCalculator

        return MLBenchCalculator(self)

    def _check_imported(self, origin: Origin, *, periodic: bool, evaluation: str) -> None:
        if evaluation in ("ahead-of-time", "fixed-shapes", "analytic"):
            raise PotentialError(
                f"{self.id} was imported from {origin.kind}; {evaluation} evaluation serves this package's own networks, "
                "use evaluation='autograd'"
            )
        if periodic and not origin.any_box:
            raise PotentialError(
                f"{self.id} was imported from {origin.kind} and knows no periodic box; take the box off the topology"
            )
        if not periodic and not origin.open_space:
            raise PotentialError(
                f"{self.id} was imported from {origin.kind} and wants a periodic box; give the topology one"
            )

    def _check_species(self, atomic_numbers: Sequence[int]) -> None:
        unseen = sorted(set(atomic_numbers) - set(self.card.species))
        if unseen:
            symbols = ", ".join(app.Element.getByAtomicNumber(number).symbol for number in unseen)
            seen = ", ".join(app.Element.getByAtomicNumber(number).symbol for number in self.card.species)
            raise PotentialError(
                f"{self.id} was not trained on {symbols}; it knows {seen}; use a model trained on these elements"
            )

    def check_box(self, box: Any) -> None:
        """Raise PotentialError unless the box vectors (3, 3), nm or a quantity, can hold this model."""
        vectors = np.array(box.value_in_unit(unit.nanometer) if unit.is_quantity(box) else box, dtype=float)
        if not np.isfinite(vectors).all() or abs(np.linalg.det(vectors)) < 1e-6:
            raise PotentialError(
                f"the box vectors {vectors.tolist()} nm span no volume; give a real box, or none"
            )
        lengths = np.linalg.norm(vectors, axis=1)
        if lengths.min() * 10 < 0.2 * self.card.cutoff_A:
            raise PotentialError(
                f"the shortest box vector is {10 * lengths.min():.2f} A, below a fifth of the cutoff of "
                f"{self.card.cutoff_A:g} A; are the box vectors in nm?"
            )

    def constraints(self, topology: app.Topology, asked: Any) -> list[tuple[int, int, float]]:
        """Constraints that the model needs on this topology.

        Args:
            topology: must be that of the training data where these had constraints.
            asked: None or ``app.HBonds``.

        Returns:
            Atoms and length (A) of every rigid bond.

        Raises:
            PotentialError: not what the labels of the model were made with.
        """
        trained = self.card.trained_on
        if trained.constraints == "none":
            if asked is not None:
                raise PotentialError(
                    f"{self.id} was trained on flexible hydrogens, constraints={asked} was asked for; use "
                    "constraints=None and at most 1 fs, or a model trained on constrained data"
                )
            return []
        if asked is not app.HBonds:
            raise PotentialError(
                f"{self.id} was trained with rigid bonds to hydrogen, so nothing holds these bonds but constraints; "
                f"constraints={asked} was asked for, use constraints=HBonds and up to 2 fs, or a model of flexible data"
            )
        numbers = [atom.element.atomic_number if atom.element else 0 for atom in topology.atoms()]
        if numbers != self.card.example_atomic_numbers:
            raise PotentialError(
                f"{self.id} knows the lengths of rigid bonds for its own {len(self.card.example_atomic_numbers)} atoms in "
                f"their order only, the topology has {len(numbers)} atoms or another order; use the structure that it was trained on"
            )
        return [(int(i), int(j), float(length)) for i, j, length in trained.constraint_bonds]

    def check_rigid_bonds(self, system: openmm.System, atoms: Sequence[int] | None) -> None:
        """Raise PotentialError where a bond that the model cannot hold is free.

        Args:
            system: with its constraints.
            atoms: places of the model's atoms in it, or None for all.
        """
        bonds = self.card.trained_on.constraint_bonds
        if not bonds:
            return
        places = range(system.getNumParticles()) if atoms is None else atoms
        n_own = len(self.card.example_atomic_numbers)
        if len(places) != n_own:
            raise PotentialError(
                f"{self.id} was trained with rigid bonds to hydrogen of its own {n_own} atoms and cannot act on {len(places)}; "
                "use a model of flexible data"
            )
        rigid = {
            frozenset(system.getConstraintParameters(index)[:2])
            for index in range(system.getNumConstraints())
        }
        free = [(i, j) for i, j, _ in bonds if {places[int(i)], places[int(j)]} not in rigid]
        if free:
            i, j = (int(place) for place in free[0])
            raise PotentialError(
                f"{self.id} was trained with rigid bonds to hydrogen, but {len(free)} of them are free in this System (first: "
                f"its atoms {i} and {j}); add the constraints, card.trained_on.constraint_bonds has atoms and lengths in A"
            )


def _evaluation_by_copy(module: torch.jit.ScriptModule, n_copies: int, device: torch.device) -> Evaluate:
    """Energies and forces of each copy."""
    if device.type == "cuda":
        module = copy.deepcopy(module).to(device)

    def evaluate(
        positions_nm: NDArray[np.float64], box_nm: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        box = None if box_nm is None else torch.from_numpy(box_nm).to(device)
        energies, forces = module.by_copy(torch.from_numpy(positions_nm).reshape(-1, 3).to(device), box)
        return energies.cpu().numpy(), forces.cpu().numpy().reshape(n_copies, -1, 3)

    return evaluate


def _changes_the_box(force: openmm.Force) -> bool:
    return "Barostat" in type(force).__name__


def _start(
    positions: Any, atoms: Sequence[int] | None, box: Any, n_atoms: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Positions of the chosen atoms and the box, nm; None for what is not there."""
    if positions is None:
        return None, None
    try:
        plain = positions.value_in_unit(unit.nanometer) if unit.is_quantity(positions) else positions
        array = np.array(plain, dtype=float)
    except (TypeError, ValueError) as error:
        raise PotentialError(
            f"positions cannot be read ({error}); give (n_atoms, 3) = ({n_atoms}, 3) numbers, in nm or as a quantity"
        ) from error
    if array.shape != (n_atoms, 3) or not np.isfinite(array).all():
        raise PotentialError(
            f"positions have shape {array.shape} or are not finite; give (n_atoms, 3) = ({n_atoms}, 3), in nm or as a quantity"
        )
    vectors = None if box is None else np.array(box.value_in_unit(unit.nanometer), dtype=float)
    return array if atoms is None else array[list(atoms)], vectors


def _spread_positions(n_atoms: int) -> torch.Tensor:
    """A configuration (n_atoms, 3) in nm to trace with: atoms on a cubic grid 0.15 nm apart."""
    side = int(np.ceil(n_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n_atoms]
    return torch.as_tensor(0.15 * grid, dtype=torch.float64)


def _move_mass_to_hydrogens(system: openmm.System, topology: app.Topology, mass: Any) -> None:
    """Hydrogen mass repartitioning, as ``ForceField.createSystem`` does it."""
    mass = mass if unit.is_quantity(mass) else mass * unit.dalton
    moved = 0
    for bond in topology.bonds():
        for hydrogen, heavy in ((bond[0], bond[1]), (bond[1], bond[0])):
            if hydrogen.element is app.element.hydrogen and heavy.element not in (app.element.hydrogen, None):
                transfer = mass - system.getParticleMass(hydrogen.index)
                system.setParticleMass(hydrogen.index, mass)
                system.setParticleMass(heavy.index, system.getParticleMass(heavy.index) - transfer)
                moved += 1
    if moved == 0:
        raise PotentialError(
            "hydrogenMass was given, but the topology has no bonds to hydrogens; add bonds (CONECT) or leave it out"
        )
