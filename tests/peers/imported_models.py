"""What every imported model has to show: its own package's numbers, with and without that package around."""

import json
import os
import subprocess
import sys

import numpy as np
from peer_results import record_comparison, relative_difference
from tiny_data import structures

from openmm_mlbench.export.adapters.foreign import Stated
from openmm_mlbench.export.archive import find_archive
from openmm_mlbench.export.importing import import_model
from openmm_mlbench.potential import Potential
from openmm_mlbench.workflow import archive_structure

TOLERANCE = 1e-5
# Energies and forces of an archive, by a process that has this package and no other.
ALONE = """
import json, sys
import ase, torch
from openmm_mlbench.potential import Potential
numbers, positions, cell = json.loads(sys.argv[2])
atoms = ase.Atoms(numbers, positions, cell=cell, pbc=True)
atoms.calc = Potential.load(sys.argv[1]).as_ase_calculator()
foreign = {"nequip", "mace", "deepmd", "schnetpack"} & set(sys.modules)
print(json.dumps([atoms.get_potential_energy(), atoms.get_forces().tolist(), sorted(foreign)]))
"""


def imported(file, kind, out, **stated):
    """Import, with a check that passes and every symmetry claimed."""
    told = []
    result = import_model(file, kind, out, stated=Stated(**stated), trusted=True, note=told.append)
    assert all(row.passed for row in result.rows), result.rows
    claims = result.card.claims
    assert claims.conservative
    assert claims.rotation
    assert claims.parity
    assert claims.zero_net_force
    assert result.card.origin.driver == "auto"
    archive = find_archive(out)
    numbers, positions = archive_structure(archive)
    assert len(numbers) == len(positions)
    return Potential(archive)


def compare(
    name, potential, calculator, *, kind, theirs, packages, note="", tolerance=TOLERANCE, dtype="float64"
):
    """Energies and forces of both on a molecule and in a triclinic cell; scattered atoms change nothing."""
    ours = potential.as_ase_calculator()
    found, wanted = [], []
    places = structures()
    if dtype == "float32":
        # Coordinates far from the origin lose digits in float32; ours, from differences, do not.
        del places["scattered"]
    for atoms in places.values():
        for values, calc in ((found, ours), (wanted, calculator)):
            copy = atoms.copy()
            copy.calc = calc
            values.append((copy.get_potential_energy(), copy.get_forces()))
    energy = max(relative_difference([f[0]], [w[0]]) for f, w in zip(found, wanted, strict=True))
    forces = max(relative_difference(f[1], w[1]) for f, w in zip(found, wanted, strict=True))
    record_comparison(
        name,
        ours=f"import --as {kind}",
        theirs=theirs,
        packages=packages,
        kind="import",
        systems="ethanol; a triclinic cell of 5 A"
        + (", atoms inside it and scattered" if len(places) > 2 else ""),
        energy=energy,
        forces=forces,
        dtype=dtype,
        tolerance=tolerance,
        note=note,
    )
    assert energy < tolerance
    assert forces < tolerance
    # The cell matters, and where its atoms lie does not.
    assert np.abs(found[0][1] - found[1][1]).max() > 1e-4
    crystal, scattered = structures()["cell"], structures()["scattered"]
    crystal.calc = scattered.calc = ours
    size = np.abs(crystal.get_forces()).max()
    np.testing.assert_allclose(scattered.get_forces(), crystal.get_forces(), atol=tolerance * size)


def runs_alone(potential):
    """The archive needs nothing of the package that made it."""
    atoms = structures()["cell"]
    given = [atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.array.tolist()]
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "MLBENCH_PEER"}
    }
    answer = subprocess.run(
        [sys.executable, "-c", ALONE, str(potential.archive.path), json.dumps(given)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    energy, forces, foreign = json.loads(answer.stdout.splitlines()[-1])
    assert foreign == []
    atoms.calc = potential.as_ase_calculator()
    np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-6)
