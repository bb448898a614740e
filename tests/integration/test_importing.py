"""A TorchScript module of somebody else's becomes a model like any other, or is refused in clear words."""

import dataclasses
import json
import subprocess
import sys

import foreign_modules
import fresh_models
import numpy as np
import pytest
import torch
from ase import Atoms
from openmm import Context, Platform, VerletIntegrator, app, unit
from typer.testing import CliRunner

from openmm_mlbench.cli import app as command_line
from openmm_mlbench.cli import main
from openmm_mlbench.errors import ModelError, PotentialError
from openmm_mlbench.export import importing, operators
from openmm_mlbench.export.adapters import deepmd
from openmm_mlbench.export.adapters.foreign import Stated, atomic_numbers_of
from openmm_mlbench.export.adapters.torchscript import Signature
from openmm_mlbench.export.archive import find_archive, read_card
from openmm_mlbench.export.card import Card
from openmm_mlbench.export.importing import import_model, predict_frames
from openmm_mlbench.openmm_export import export_openmm
from openmm_mlbench.potential import Potential
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.units import KJMOL_PER_EV

EDGES = '{"pos": positions, "z": numbers, "edge_index": edges, "shift": shifts} -> {"energy": energy}'
STATED = Stated(
    signature=EDGES,
    elements=["H", "C", "O"],
    cutoff=foreign_modules.CUTOFF,
    energy_unit="eV",
    length_unit="A",
)
CELL = np.array([[6.2, 0.0, 0.0], [1.4, 5.9, 0.0], [-1.1, 1.7, 5.6]])
ARGUMENTS = ("--elements", "H,C,O", "--cutoff", "4", "--energy-unit", "eV", "--length-unit", "A")


def ethanol(cell=None):
    atoms = Atoms(fresh_models.ethanol()[0].atomic_numbers, 10 * fresh_models.ethanol_positions_nm())
    if cell is not None:
        atoms.set_cell(cell)
        atoms.pbc = True
    return atoms


def plain(atoms):
    """Energy, eV, and forces, eV/A, of all pairs and images, picked one by one."""
    positions = torch.tensor(atoms.positions, requires_grad=True)
    numbers = torch.tensor(atoms.numbers)
    images = [np.array(n) - 3 for n in np.ndindex(7, 7, 7)] if atoms.pbc.any() else [np.zeros(3)]
    found = []
    for i, j in np.ndindex(len(atoms), len(atoms)):
        for image in images:
            shift = image @ atoms.cell.array
            distance = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift)
            if distance < foreign_modules.CUTOFF and (i != j or image.any()):
                found.append((i, j, shift))
    i, j = (torch.tensor([pair[k] for pair in found]) for k in (0, 1))
    vectors = positions[j] - positions[i] + torch.tensor(np.array([pair[2] for pair in found]))
    total = 0.5 * foreign_modules.pair_energies(vectors, numbers[i], numbers[j]).sum()
    (gradient,) = torch.autograd.grad(total, positions)
    return total.item(), -gradient.numpy()


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edges")
    file = foreign_modules.write(foreign_modules.Edges(), folder / "edges.pt")
    result = import_model(file, "torchscript", folder / "model.pt", stated=STATED)
    return folder / "model.pt", result


def module_of(name, folder):
    return foreign_modules.write(getattr(foreign_modules, name)(), folder / f"{name}.pt")


GUISES = [
    ("Edges", EDGES, {}),
    ("Vectors", "numbers, edges, vectors -> energy, forces", {}),
    ("Edges", EDGES.replace("shifts}", "-(-shifts)}"), {}),
    ("Molecules", "(types[1], positions[1]), none -> _, energy", {}),
    ("Molecules", "(types[1], positions[1]), cell_or_none -> _, energy", {}),
    ("Gradient", "positions, numbers, cell -> energy, gradient", {"energy_unit": "kJ/mol", "length_unit": "nm", "cutoff": 0.4}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "signature", "stated"), GUISES, ids=[f"{g[0]}: {g[1]}"[:60] for g in GUISES]
)
def test_every_guise_of_a_pair_sum_gives_its_numbers(tmp_path, name, signature, stated):
    file = module_of(name, tmp_path)
    given = dataclasses.replace(STATED, signature=signature, **stated)
    result = import_model(file, "torchscript", tmp_path / "model.pt", stated=given)
    assert all(row.passed for row in result.rows), result.rows
    assert result.card.origin.open_space
    assert result.card.origin.any_box == (name != "Molecules")
    assert result.card.cutoff_A == pytest.approx(4.0)
    calculator = Potential.load(tmp_path / "model.pt").as_ase_calculator()
    # A minimum image is all that Gradient knows: a larger cell.
    cell = CELL * 2 if name == "Gradient" else CELL
    for atoms in (ethanol(), *([ethanol(cell)] if name != "Molecules" else [])):
        energy, forces = plain(atoms)
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-9 * np.abs(forces).max())


def test_the_card_says_where_it_comes_from(edges):
    path, result = edges
    card = read_card(path)
    assert card == result.card
    origin = card.origin
    assert (card.model, card.dtype, card.species, card.n_parameters) == (
        "torchscript",
        "float64",
        [1, 6, 8],
        1,
    )
    assert (origin.kind, origin.file, origin.driver) == ("torchscript", "edges.pt", "auto")
    assert origin.options["signature"] == EDGES
    assert (origin.options["energy_unit"], origin.options["length_unit"]) == ("eV", "A")
    assert (card.trained_on.dataset, card.trained_on.n_train, card.licence) == ("unknown", None, "unknown")
    assert all(dataclasses.asdict(card.claims).values())
    assert Card.from_json(card.to_json(), "here") == card


def test_only_imported_models_may_have_gaps(edges):
    card = edges[1].card
    with pytest.raises(ValueError, match="gaps"):
        dataclasses.replace(card, origin=None)


def test_float32_weights_and_large_offsets(tmp_path):
    file = foreign_modules.write(foreign_modules.Edges(torch.float32), tmp_path / "single.pt")
    result = import_model(file, "torchscript", tmp_path / "model.pt", stated=STATED)
    assert all(row.passed for row in result.rows), result.rows
    assert result.card.dtype == "float32"
    double = dataclasses.replace(STATED, dtype="float64")
    result = import_model(file, "torchscript", tmp_path / "double.pt", stated=double)
    assert result.card.dtype == "float64"
    atoms = ethanol()
    atoms.calc = Potential.load(tmp_path / "model.pt").as_ase_calculator()
    energy = atoms.get_potential_energy()
    assert energy == pytest.approx(plain(atoms)[0], rel=1e-5)
    assert energy != plain(atoms)[0]


class Lopsided(torch.nn.Module):
    """A field along x: neither rotation nor a net force of zero."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return (positions[:, 0].cos() * 3.0).sum()


def test_what_does_not_hold_is_not_claimed(tmp_path):
    file = foreign_modules.write(Lopsided(), tmp_path / "field.pt")
    told = []
    given = dataclasses.replace(STATED, signature="positions -> energy")
    result = import_model(file, "torchscript", tmp_path / "model.pt", stated=given, note=told.append)
    claims = result.card.claims
    assert (claims.conservative, claims.rotation, claims.zero_net_force) == (True, False, False)
    assert any("not claimed: rotation" in line for line in told)
    # Translation is no claim, and this module breaks it.
    assert [row.name for row in result.rows if not row.passed] == ["translation"]


class Wrong(torch.nn.Module):
    """Its forces are no derivative of its energy."""

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        centred = positions - positions.mean(0, keepdim=True)
        return centred.square().sum(), -centred


def test_forces_that_are_no_gradient_are_not_claimed_conservative(tmp_path):
    file = foreign_modules.write(Wrong(), tmp_path / "wrong.pt")
    given = dataclasses.replace(STATED, signature="positions -> energy, forces")
    result = import_model(file, "torchscript", tmp_path / "model.pt", stated=given)
    assert not result.card.claims.conservative
    assert result.card.claims.rotation


class Detached(torch.nn.Module):
    """TorchForce's freezing drops ``detach``: in a Context this is another function."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        centred = positions - positions.mean(0, keepdim=True)
        squares = centred.square().sum()
        return squares * squares.detach()


def test_python_force_where_torch_force_changes_the_numbers(tmp_path):
    file = foreign_modules.write(Detached(), tmp_path / "detached.pt")
    told = []
    given = dataclasses.replace(STATED, signature="positions -> energy")
    result = import_model(file, "torchscript", tmp_path / "model.pt", stated=given, note=told.append)
    assert result.card.origin.driver == "pythonforce"
    assert any("PythonForce" in line for line in told)
    (row,) = (row for row in result.rows if row.name == "in OpenMM against archive")
    assert row.passed
    potential = Potential.load(tmp_path / "model.pt")
    topology = topology_of_ethanol()
    assert type(potential.create_force(topology)).__name__ == "PythonForce"
    with pytest.raises(PotentialError, match="TorchForce gives other numbers"):
        potential.create_force(topology, driver="torchforce")
    # Neither does it leave for plain OpenMM unnoticed.
    with pytest.raises(PotentialError, match="TorchForce gives other numbers"):
        export_openmm(
            load_protocol("ethanol"), potential, fresh_models.ethanol_positions_nm(), tmp_path / "out"
        )


def topology_of_ethanol(cell=None):
    from openmm_mlbench.assets import asset_path

    topology = app.PDBFile(str(asset_path("systems", "ethanol", "topology.pdb"))).topology
    if cell is not None:
        topology.setPeriodicBoxVectors(cell / 10 * unit.nanometer)
    return topology


@pytest.mark.parametrize("cell", [None, CELL], ids=["open space", "box"])
def test_frozen_forces_do_not_depend_on_a_gradient_that_nobody_asked_for(edges, cell):
    """Freezing drops detach(), and the Reference kernel's positions require a gradient: in a box the forces were zero."""
    numbers = [int(number) for number in fresh_models.ethanol()[0].atomic_numbers]
    module = Potential.load(edges[0]).module(numbers, periodic=cell is not None)
    positions = torch.tensor(fresh_models.ethanol_positions_nm())
    box = () if cell is None else (torch.tensor(cell / 10),)
    wanted = module(positions, *box)[1]
    frozen = torch.jit.freeze(module.eval())
    found = frozen(positions.clone().requires_grad_(), *box)[1]
    assert wanted.abs().max() > 100.0
    assert torch.equal(found.detach(), wanted)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("cell", [None, CELL], ids=["open space", "box"])
def test_replicas_of_an_imported_model_share_a_context(edges, cell, groups):
    """Energies and forces of each copy are those of the model by itself, and the System's are their sum."""
    potential = Potential.load(edges[0])
    copies = potential.create_copies(topology_of_ethanol(cell), 3, groups)
    rng = np.random.default_rng(0)
    start = fresh_models.ethanol_positions_nm()
    positions = np.array([start + rng.normal(scale=0.005, size=start.shape) for _ in range(3)])
    box = None if cell is None else cell / 10
    energies, forces = copies.evaluate(positions, box)
    numbers = [int(number) for number in fresh_models.ethanol()[0].atomic_numbers]
    one = potential.module(numbers, periodic=cell is not None)
    for k in range(3):
        arguments = [torch.tensor(positions[k])] + ([] if box is None else [torch.tensor(box)])
        energy, force = one(*arguments)
        assert energies[k] == energy.item()
        assert np.array_equal(forces[k], force.numpy())
    assert len(set(energies)) == 3
    context = Context(copies.system, VerletIntegrator(0.001), Platform.getPlatformByName("Reference"))
    context.setPositions(positions.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    assert state.getPotentialEnergy()._value == pytest.approx(energies.sum(), rel=1e-12)
    np.testing.assert_allclose(
        state.getForces(asNumpy=True)._value, forces.reshape(-1, 3), rtol=1e-12, atol=1e-9
    )


def test_what_a_model_does_not_serve_is_refused(tmp_path, edges):
    file = module_of("Molecules", tmp_path)
    given = dataclasses.replace(STATED, signature="(types[1], positions[1]), none -> _, energy")
    import_model(file, "torchscript", tmp_path / "model.pt", stated=given)
    molecules = Potential.load(tmp_path / "model.pt")
    with pytest.raises(PotentialError, match="knows no periodic box"):
        molecules.create_system(topology_of_ethanol(CELL))
    potential = Potential.load(edges[0])
    potential.create_system(topology_of_ethanol(CELL))
    with pytest.raises(PotentialError, match="imported from torchscript; ahead-of-time"):
        potential.create_system(topology_of_ethanol(), evaluation="ahead-of-time")
    with pytest.raises(PotentialError, match="not trained on N"):
        potential.module([7, 7])
    with pytest.raises(ModelError, match="has no network class here"):
        potential.archive.load_eager()


# ---- refusals ----


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("positions", "INPUTS -> OUTPUTS"),
        ("positions -> ", "INPUTS -> OUTPUTS"),
        ("coordinates -> energy", "'coordinates' is no input"),
        ("positions[2] -> energy", r"'positions\[2\]' is no input"),
        ("positions -> force", "'force' is no output"),
        ("positions -> forces", "no output is called energy"),
        ("numbers -> energy", "neither positions nor vectors"),
        ("positions -> energy, energy", "twice"),
        ("positions -> energy, forces, gradient", "twice"),
        ("positions( -> energy", "cannot be read"),
        ("__import__('os').system('true') -> energy", "is no input"),
    ],
)
def test_signatures_that_are_none(signature, message):
    with pytest.raises(ModelError, match=message):
        Signature(signature)


def test_files_and_statements_that_do_not_fit(tmp_path):
    file = module_of("Edges", tmp_path)
    out = tmp_path / "model.pt"

    def refuse(message, kind="torchscript", file=file, **changes):
        with pytest.raises(ModelError, match=message):
            import_model(file, kind, out, stated=dataclasses.replace(STATED, **changes))
        assert not out.exists()

    refuse("kind 'ani' is not known", kind="ani")
    refuse("does not exist", file=tmp_path / "nothing.pt")
    refuse("give --signature, --cutoff", signature=None, cutoff=None)
    refuse("cannot be called as 'positions -> energy'", signature="positions -> energy")
    refuse("'Xy' is no element|Xy is no element", elements=["H", "Xy"])
    refuse("element twice", elements=["H", "H"])
    refuse("not of NequIP", kind="nequip")
    refuse("not of DeePMD-kit", kind="deepmd")
    (tmp_path / "text.pt").write_text("nothing of the kind")
    refuse("cannot be loaded as TorchScript", file=tmp_path / "text.pt")
    for changes, message in (
        ({"energy_unit": "calories"}, "unit 'calories' is not known"),
        ({"length_unit": "mm"}, "unit 'mm' is not known"),
        ({"dtype": "float16"}, "dtype 'float16' is not known"),
        ({"cutoff": -1.0}, "is no distance"),
    ):
        with pytest.raises(ModelError, match=message):
            dataclasses.replace(STATED, **changes)


def test_types_by_name_or_by_order():
    assert atomic_numbers_of(["H", "O"], "it") == [1, 8]
    assert atomic_numbers_of(["type-1", "type-2"], "it", override=["O", "H"]) == [8, 1]
    with pytest.raises(ModelError, match=r"has the 2 types H, O, --elements names 1"):
        atomic_numbers_of(["H", "O"], "it", override=["H"])
    with pytest.raises(
        ModelError, match="calls its atom types type-1, and type-1 is no element; give --elements"
    ):
        atomic_numbers_of(["type-1"], "it")


class Undefined(torch.nn.Module):
    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return (positions.square().sum() * -1.0).sqrt()


def test_a_model_that_runs_nowhere(tmp_path):
    file = foreign_modules.write(Undefined(), tmp_path / "nan.pt")
    given = dataclasses.replace(STATED, signature="positions -> energy")
    with pytest.raises(ModelError, match=r"runs neither with a box nor without .*not finite"):
        import_model(file, "torchscript", tmp_path / "model.pt", stated=given)


def test_a_structure_of_other_elements(tmp_path):
    file = module_of("Edges", tmp_path)
    structure = (np.array([7, 7]), np.array([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]]))
    with pytest.raises(ModelError, match=r"holds the atomic numbers \[7\]"):
        import_model(file, "torchscript", tmp_path / "model.pt", stated=STATED, structure=structure)


# ---- pickles ----


class Payload:
    """A pickle that runs code: it writes a file where it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["mace", "schnetpack"])
def test_a_pickle_is_not_opened_without_trust(tmp_path, kind):
    file = tmp_path / "evil.model"
    torch.save(Payload(tmp_path / "it-ran"), file)
    told = []
    with pytest.raises(ModelError, match=r"SHA-256 [0-9a-f]{64}.*give --trust"):
        import_model(file, kind, tmp_path / "model.pt", stated=STATED, note=told.append)
    # The hash is told before anything else happens.
    assert "SHA-256" in told[0]
    assert not (tmp_path / "it-ran").exists()


def test_an_interpreter_without_the_package(tmp_path):
    file = tmp_path / "some.model"
    torch.save({"weights": 1}, file)
    for python, message in (("/nowhere/python", "does not run"), (None, "mace-torch does not import here")):
        given = dataclasses.replace(STATED, python=python)
        with pytest.raises(ModelError, match=message):
            import_model(file, "mace", tmp_path / "model.pt", stated=given, trusted=True)


# ---- what a model needs where it runs ----

OPERATOR = """
import torch
torch.library.define("mlbench_test::double", "(Tensor x) -> Tensor")
@torch.library.impl("mlbench_test::double", "CompositeImplicitAutograd")
def double(x):
    return x + x
"""
USE_IT = """
import sys
from pathlib import Path
import torch
import mlbench_operators
from openmm_mlbench.cli import main
class Doubled(torch.nn.Module):
    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        centred = positions - positions.mean(0, keepdim=True)
        return torch.ops.mlbench_test.double(centred.square()).sum()
torch.jit.script(Doubled()).save(sys.argv[1])
main(["import", *sys.argv[1:]])
"""


def test_custom_operators_are_named_and_missed(tmp_path, monkeypatch):
    (tmp_path / "mlbench_operators.py").write_text(OPERATOR)
    # TorchScript reads the source of a class from its file.
    (tmp_path / "use_it.py").write_text(USE_IT)
    file, out = tmp_path / "doubled.pt", tmp_path / "model.pt"
    answer = subprocess.run(
        [
            sys.executable, tmp_path / "use_it.py", file, "--as", "torchscript", "-o", out, *ARGUMENTS,
            "--signature", "positions -> energy", "--needs-package", "mlbench_operators",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    origin = read_card(out).origin
    assert (origin.operators, origin.packages) == (["mlbench_test::double"], ["mlbench_operators"])
    # In this process nothing brings the operator: neither file loads, and each message says what would.
    given = dataclasses.replace(STATED, signature="positions -> energy")
    with pytest.raises(ModelError, match=r"mlbench_test::double.*--needs-package or --needs-library"):
        import_model(file, "torchscript", tmp_path / "other.pt", stated=given)
    archive = find_archive(out)
    with pytest.raises(ModelError, match="needs the Python package mlbench_operators"):
        archive.load_script()
    bare = dataclasses.replace(
        archive.card, origin=dataclasses.replace(origin, packages=[], libraries=["libx.so"])
    )
    with pytest.raises(
        ModelError, match=r"calls the custom operators mlbench_test::double of libx.so; set MLBENCH_OPERATORS"
    ):
        dataclasses.replace(archive, card=bare).load_script()
    monkeypatch.setenv("MLBENCH_OPERATORS", str(tmp_path / "libx.so"))
    with pytest.raises(ModelError, match=r"libx.so does not load"):
        dataclasses.replace(archive, card=bare).load_script()


class Tabulated(torch.nn.Module):
    """Names an operator of DeePMD-kit's library, as its frozen models do, and calls it only if told to."""

    def __init__(self, compress: bool) -> None:
        super().__init__()
        self.compress = compress

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        squares = (positions - positions.mean(0, keepdim=True)).square()
        if self.compress:
            squares = torch.ops.deepmd.tabulate_fusion_se_r(squares, squares, squares, 1)[0]
        return squares.sum()


def test_operators_that_are_named_and_not_called(tmp_path):
    operators.define_unused(deepmd.TABULATED)
    # Named by their schema alone, they count as missing wherever one is called.
    assert not operators.is_registered("deepmd::tabulate_fusion_se_r")
    given = dataclasses.replace(STATED, signature="positions -> energy")
    for compress in (False, True):
        file = foreign_modules.write(Tabulated(compress), tmp_path / "deepmd.pt")
        assert operators.named_operators(file) == ["deepmd::tabulate_fusion_se_r"]
        if compress:
            with pytest.raises(ModelError, match="runs neither with a box nor without"):
                import_model(file, "torchscript", tmp_path / "compressed.pt", stated=given)
            continue
        origin = import_model(file, "torchscript", tmp_path / "model.pt", stated=given).card.origin
        assert origin.operators == []
        assert origin.unused_operators == [deepmd.TABULATED[1]]
    # Processes that have never heard of it run the archive, and what it becomes in plain OpenMM.
    potential = Potential.load(tmp_path / "model.pt")
    positions = fresh_models.ethanol_positions_nm()
    script = export_openmm(load_protocol("ethanol"), potential, positions, tmp_path / "out", length_ps=0.05)
    for program in (("-m", "openmm_mlbench.cli", "check", tmp_path / "model.pt"), (script,)):
        answer = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr


# ---- everything else works on it ----


def test_from_import_to_a_page(tmp_path, edges):
    """The command line: import, check, simulate, analyze, report; numbers as by hand."""
    file = edges[0].parent / "edges.pt"
    out, run = tmp_path / "mine.pt", tmp_path / "run"

    def call(*arguments):
        result = CliRunner().invoke(command_line, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    said = call(
        "import", file, "--as", "torchscript", "-o", out, *ARGUMENTS, "--signature", EDGES,
        "--dataset", "ethanol-gfn2", "--licence", "CC-BY 4.0",
    )  # fmt: skip
    card = read_card(out)
    assert f"force MAE {card.errors['force_mae_meV_A']:.1f} meV/A" in said
    assert (card.trained_on.dataset, card.licence) == ("ethanol-gfn2", "CC-BY 4.0")
    assert card.trained_on.level_of_theory.startswith("GFN2")
    frames, split = fresh_models.ethanol()
    test = frames.select(split.test[:5])
    energies, forces = predict_frames(find_archive(out).load_script(), test)
    for k in range(5):
        energy, force = plain(Atoms(test.atomic_numbers, test.positions[k]))
        assert energies[k] == pytest.approx(energy, rel=1e-9)
        np.testing.assert_allclose(forces[k], force, atol=1e-9)
    call("check", out)
    call(
        "simulate",
        "ethanol",
        "--model",
        out,
        "--replicas",
        2,
        "--length",
        0.1,
        "-o",
        run,
        "--batch-replicas",
        "on",
    )
    assert len(json.loads((run / "run.json").read_text())["sessions"][0]["batching"]["replicas"]) == 2
    call("analyze", run)
    metrics = json.loads((run / "metrics.json").read_text())
    results = {r["name"]: r for m in metrics["measurements"] for r in m["results"]}
    assert results["force_mae"]["value"] == pytest.approx(card.errors["force_mae_meV_A"], rel=1e-6)
    call("report", run, "-o", tmp_path / "report.html")
    assert "torchscript" in (tmp_path / "report.html").read_text()


def test_a_model_of_unknown_data_checks_on_its_own_structure(edges, capsys):
    main_exit = None
    try:
        main(["check", str(edges[0])])
    except SystemExit as stop:
        main_exit = stop.code
    assert main_exit in (None, 0)
    assert "permutation of atoms" in capsys.readouterr().out


def test_a_grid_keeps_atoms_apart():
    numbers, positions = importing.grid_of([1, 6, 8, 17])
    assert sorted(set(numbers.tolist())) == [1, 6, 8, 17]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)[np.triu_indices(len(numbers), 1)]
    assert 1.4 < distances.min() < 2.5


def test_energies_of_a_context_are_in_kj(edges):
    from test_potential import evaluate

    atoms = ethanol()
    energy, _ = evaluate(Potential.load(edges[0]).create_system(topology_of_ethanol()), atoms.positions / 10)
    assert energy == pytest.approx(plain(atoms)[0] * KJMOL_PER_EV, rel=1e-9)


def test_an_atom_that_is_nowhere_does_not_vanish(edges):
    module = find_archive(edges[0]).load_script()
    atoms = ethanol(CELL)
    module.atomic_numbers = torch.as_tensor(atoms.numbers)
    positions, box = torch.as_tensor(atoms.positions) / 10, torch.as_tensor(CELL) / 10
    assert np.isfinite(float(module(positions, box)[0]))
    positions[3] = np.nan
    energy, forces = module(positions, box)
    assert np.isnan(float(energy))
    assert torch.isnan(forces).all()


def test_a_structure_without_forces_proves_nothing(tmp_path):
    """Atoms farther apart than the cutoff."""
    file = module_of("Edges", tmp_path)
    far = (np.array([6, 1]), np.array([[0.0, 0.0, 0.0], [30.0, 0.0, 0.0]]))
    with pytest.raises(ModelError, match="the largest force on 2 atoms is 0 kJ/mol/nm"):
        import_model(file, "torchscript", tmp_path / "model.pt", stated=STATED, structure=far)
    assert not (tmp_path / "model.pt").exists()


def test_a_file_is_not_overwritten_by_its_own_import(tmp_path):
    file = module_of("Edges", tmp_path)
    before = file.read_bytes()
    with pytest.raises(ModelError, match="choose another file for -o"):
        import_model(file, "torchscript", tmp_path / "." / file.name, stated=STATED)
    assert file.read_bytes() == before


def test_a_model_of_unknown_data_starts_from_the_structure_of_the_system(edges, tmp_path):
    run = tmp_path / "run"
    arguments = ("simulate", "ethanol", "--model", str(edges[0]), "--replicas", "1", "--length", "0.1")
    done = CliRunner().invoke(command_line, [*arguments, "-o", str(run)])
    assert done.exit_code == 0, done.output
    assert "starts from topology.pdb" in done.output
    analyzed = CliRunner().invoke(command_line, ["analyze", str(run)])
    assert analyzed.exit_code == 0, analyzed.output
