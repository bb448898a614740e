"""What the tiny models of other packages are trained on, and where they are compared."""

import os
import subprocess
import sys

import ase
import ase.io
import numpy as np

from openmm_mlbench.data.datasets import default_split, load_dataset

# Lattice vectors in A: triclinic, its heights below twice every cutoff used here.
CELL = np.array([[6.2, 0.0, 0.0], [1.4, 5.9, 0.0], [-1.1, 1.7, 5.6]])


def frames(n_frames=24):
    """Shipped ethanol frames as ASE atoms, with REF_energy (eV) and REF_forces (eV/A)."""
    data = load_dataset("ethanol-gfn2")
    chosen = data.select(default_split("ethanol-gfn2", data).train[:n_frames])
    result = []
    for positions, energy, forces in zip(chosen.positions, chosen.energies, chosen.forces, strict=True):
        atoms = ase.Atoms(chosen.atomic_numbers, positions)
        atoms.info["REF_energy"] = float(energy)
        atoms.arrays["REF_forces"] = np.array(forces)
        result.append(atoms)
    return result


def write_frames(path, n_frames=24):
    ase.io.write(path, frames(n_frames), format="extxyz")
    return path


def structures():
    """What models are compared on: a molecule, a triclinic cell, the same with scattered atoms, a single atom."""
    molecule = frames(30)[-1].copy()
    molecule.info, molecule.arrays = {}, {k: molecule.arrays[k] for k in ("numbers", "positions")}
    crystal = molecule.copy()
    crystal.set_cell(CELL)
    crystal.pbc = True
    scattered = crystal.copy()
    scattered.positions += np.random.default_rng(1).integers(-3, 4, (len(scattered), 3)) @ CELL
    return {"molecule": molecule, "cell": crystal, "scattered": scattered}


def run(*arguments, cwd):
    """A program of the package under test, in this interpreter and environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    answer = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    return answer.stdout
