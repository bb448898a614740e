"""Fit the parameters of lips-fm to the forces of the real frames: python systems/lips/fit.py [--data lips.npz].

Training frames only of the default split; force errors of the test frames go into the file.  A minute on one core.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from openmm_mlbench.data.datasets import default_split, load_dataset
from openmm_mlbench.data.frames import Frames
from openmm_mlbench.files import write_json
from openmm_mlbench.reference_potentials.force_matching import (
    DistanceTerm,
    features_of,
    match_forces,
    separations,
    split_parameters,
)
from openmm_mlbench.reference_potentials.lips import CUTOFF_A, PARAMETERS, SOURCE, Anions, all_terms

# In all 1,077 frames every P-S bond is shorter than 2.62 A, and no other P-S pair closer than 3.3 A.
BOND_A = 2.75
SMOOTHNESS = 1e-4
# Distances more extreme than all but this many of those in the training frames are not trusted.
N_EXTREME = 50


def find_anions(frames: Frames) -> Anions:
    """Bonds of the first frame, which are those of all."""
    phosphorus = np.flatnonzero(frames.atomic_numbers == 15)
    sulphur = np.flatnonzero(frames.atomic_numbers == 16)
    pairs = np.stack(np.meshgrid(phosphorus, sulphur, indexing="ij"), axis=-1).reshape(-1, 2)
    assert frames.cells is not None
    near = [
        separations(positions, cell, pairs)[1] < BOND_A
        for positions, cell in zip(frames.positions, frames.cells, strict=True)
    ]
    if not all(np.array_equal(bound, near[0]) for bound in near):
        raise SystemExit("a P-S bond breaks or forms in these frames; the potential holds them fixed")
    return Anions.of(frames.atomic_numbers, pairs[near[0]])


def edges(term: DistanceTerm, frames: Frames) -> tuple[float, float | None]:
    """The range of distances that the frames know."""
    assert frames.cells is not None
    found = np.sort(
        np.concatenate(
            [
                separations(positions, cell, term.pairs)[1]
                for positions, cell in zip(frames.positions, frames.cells, strict=True)
            ]
        )
    )
    skip = min(N_EXTREME, len(found) // 200)
    return round(float(found[skip]), 4), None if term.basis.vanishing else round(float(found[-skip - 1]), 4)


def errors(terms: list, parameters: np.ndarray, frames: Frames) -> dict[str, float]:
    """Force MAE, meV/A, overall and of each element."""
    assert frames.cells is not None
    assert frames.forces is not None
    differences = np.stack(
        [
            (features_of(terms, positions, cell) @ parameters).reshape(-1, 3) - forces
            for positions, cell, forces in zip(frames.positions, frames.cells, frames.forces, strict=True)
        ]
    )
    groups = {"all": frames.atomic_numbers > 0} | {
        symbol: frames.atomic_numbers == number for symbol, number in (("Li", 3), ("P", 15), ("S", 16))
    }
    return {
        name: round(1000 * float(np.abs(differences[:, atoms]).mean()), 2) for name, atoms in groups.items()
    }


def main() -> None:
    """Fit and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, default=None, help="lips.npz or the official lips.xyz")
    arguments.add_argument("--out", type=Path, default=Path(__file__).with_name(PARAMETERS))
    given = arguments.parse_args()
    frames = load_dataset("lips", path=given.data)
    split = default_split("lips", frames)
    train, test = frames.select(split.train), frames.select(split.test)
    assert train.cells is not None
    assert train.forces is not None
    anions = find_anions(frames)
    terms = all_terms(anions)
    parameters = match_forces(terms, zip(train.positions, train.cells, train.forces, strict=True), SMOOTHNESS)
    parameters = np.array([float(f"{value:.10g}") for value in parameters])
    distances = {}
    angles = {}
    for term, numbers in zip(terms, split_parameters(terms, parameters), strict=True):
        if isinstance(term, DistanceTerm):
            inner, outer = edges(term, train)
            distances[term.name] = {"coefficients_eV": numbers.tolist(), "inner_A": inner, "outer_A": outer}
        else:
            angles[term.name] = numbers.tolist()
    fit = {
        "train_frames": len(train.positions),
        "test_frames": len(test.positions),
        "split_seed": 0,
        "parameters": len(parameters),
        "smoothness": SMOOTHNESS,
        "force_mae_meV_A_train": errors(terms, parameters, train),
        "force_mae_meV_A_test": errors(terms, parameters, test),
    }
    write_json(
        given.out,
        {
            "potential": "lips-fm",
            "source": SOURCE,
            "command": "python systems/lips/fit.py",
            "cutoff_A": CUTOFF_A,
            "types": anions.types.tolist(),
            "bonds": anions.bonds.tolist(),
            "distances": distances,
            "angles": angles,
            "fit": fit,
        },
    )
    print(json.dumps(fit, indent=2))


if __name__ == "__main__":
    main()
