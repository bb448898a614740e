"""Molecules on a processor: all pairs in a graph that never changes, beside a list of the pairs within the cutoff.

python benchmarks/all_pairs.py [MODEL...] [--seconds 6] [-o benchmarks/results/all_pairs.json]

Says where ``Network.all_pairs_up_to`` has to stand.  Fresh weights at the paper's sizes for MD17, one thread;
the forms that ``evaluation="auto"`` makes on either side of the limit take turns, and the smallest processor time counts.
Ethanol and aspirin are shipped frames, the alkanes stretched chains.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from record import RESULTS, provenance

from openmm_mlbench.data.datasets import cache_folder, load_dataset
from openmm_mlbench.files import read_json, write_json
from openmm_mlbench.models.registry import ARCHITECTURES
from openmm_mlbench.simulation.platforms import keep_memory
from openmm_mlbench.speed.cases import make_case
from openmm_mlbench.units import NM_PER_ANGSTROM

# Each call is of another one.
N_FRAMES = 5
ALKANES = (3, 4, 6, 8, 10, 12, 16)


def alkane(n_carbons):
    """Atomic numbers and positions (n_atoms, 3), A, of a stretched chain: C-C 1.53 A, C-H 1.09 A."""
    numbers, places = [], []
    for k in range(n_carbons):
        side = 1.0 if k % 2 else -1.0
        carbon = np.array([1.27 * k, 0.43 * side, 0.0])
        numbers += [6, 1, 1]
        places += [carbon + np.array([0.0, 0.63 * side * (z != 0.0), z]) for z in (0.0, 0.89, -0.89)]
    for end, outwards in ((0, -1.0), (n_carbons - 1, 1.0)):
        side = 1.0 if end % 2 else -1.0
        numbers.append(1)
        places.append(places[3 * end] + np.array([0.89 * outwards, -0.63 * side, 0.0]))
    return numbers, np.array(places)


def molecules():
    """Name to atomic numbers and positions, A, with more and more atoms."""
    found = {}
    for name in ("ethanol", "aspirin"):
        frames = load_dataset(f"{name}-gfn2")
        found[name] = (frames.atomic_numbers.tolist(), frames.positions[0].astype(float))
    found |= {f"C{n}H{2 * n + 2}": alkane(n) for n in ALKANES}
    return dict(sorted(found.items(), key=lambda item: len(item[1][0])))


def times(model, seconds):
    """Rows of one architecture: smallest processor time of a force call in either form, us."""
    potential = make_case(model, "ethanol", cache_folder() / "fresh").potential
    architecture, limit = ARCHITECTURES[model], ARCHITECTURES[model].all_pairs_up_to
    rows = []
    for name, (numbers, positions) in molecules().items():
        # As along a trajectory, whose lists are hardly ever of one length; OpenMM's Reference platform hands over
        # positions that require a gradient.
        noise = 0.05 * np.random.default_rng(0).standard_normal((N_FRAMES, *positions.shape))
        frames = [torch.as_tensor(frame * NM_PER_ANGSTROM).requires_grad_() for frame in positions + noise]
        calls = {}
        for form, up_to in (("all pairs", 50), ("within the cutoff", 0)):
            architecture.all_pairs_up_to = up_to
            calls[form] = torch.jit.freeze(potential.module(numbers).eval())
        architecture.all_pairs_up_to = limit
        best = dict.fromkeys(calls, float("inf"))
        for call in calls.values():
            for where in frames:
                call(where)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for form, call in calls.items():
                start = time.process_time()
                for where in frames:
                    call(where)
                best[form] = min(best[form], (time.process_time() - start) / N_FRAMES)
        rows.append(
            {"molecule": name, "n_atoms": len(numbers), "us": {form: 1e6 * t for form, t in best.items()}}
        )
        print(model, rows[-1], flush=True)
    return {"model": model, "all_pairs_up_to": limit, "molecules": rows}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="architectures; all of them if none")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each molecule and network")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "all_pairs.json")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(ARCHITECTURES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: use some of {', '.join(ARCHITECTURES)}")
    # As a simulation does.
    keep_memory()
    torch.set_num_threads(1)
    known = read_json(arguments.output)["networks"] if arguments.output.is_file() else []
    kept = {row["model"]: row for row in known}
    for model in arguments.models or ARCHITECTURES:
        kept[model] = times(model, arguments.seconds)
        networks = [kept[name] for name in ARCHITECTURES if name in kept]
        write_json(arguments.output, {**provenance(), "threads": 1, "networks": networks})


if __name__ == "__main__":
    main()
