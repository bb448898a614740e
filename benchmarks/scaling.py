"""How the time and memory of a force call grow with the system, and what the forms for processors gain.

python benchmarks/scaling.py [--largest 12288] [-o benchmarks/results/scaling.json] [--figure docs/figures/scaling.png]

Boxes of water are the shipped one of 192 atoms, repeated.  One thread; calls of one architecture and all sizes
take turns, and the smallest time counts.  Processor time says what a call costs where other programs run too; wall
time is kept beside it.  Weights are random: they change nothing of the time.  Memory is what calls add
to a process of its own at their peak (Linux).
"""

import argparse
import ctypes
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from openmm import app

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import naive_networks
from record import provenance

from openmm_mlbench.assets import asset_path
from openmm_mlbench.export.analytic import ANALYTIC, analytic
from openmm_mlbench.export.exported_model import ExportedModel
from openmm_mlbench.files import atomic_path, write_json
from openmm_mlbench.models.force_field import ForceField
from openmm_mlbench.models.neighbours import periodic_pairs
from openmm_mlbench.models.registry import build_network
from openmm_mlbench.simulation.platforms import keep_memory

SKIN_A = 1.0
HERE = Path(__file__).resolve().parent
# Repetitions of the box along its vectors: 192 to 12,288 atoms.
REPEATS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 2), (4, 4, 2), (4, 4, 4))
# The paper's sizes for water; NequIP small, because the paper's takes 90 s and 19 GB for 12,288 atoms.
MODELS = {
    "schnet": {"cutoff": 6.0},
    "deeppot-se": {"axis": 16, "cutoff_start": 0.5, "cutoff": 6.0, "selection": 69},
    "nequip": {
        "l_max": 1,
        "features": 16,
        "layers": 3,
        "radial_width": 32,
        "cutoff": 4.0,
        "neighbours": 16.0,
    },
}


def water(repeat):
    """Atomic numbers, positions (n, 3) and box (3, 3), nm."""
    pdb = app.PDBFile(str(asset_path("systems", "water", "topology.pdb")))
    box = np.array(pdb.topology.getPeriodicBoxVectors()._value)  # noqa: SLF001
    positions = np.array(pdb.positions._value)  # noqa: SLF001
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    places = np.stack(np.meshgrid(*[np.arange(n) for n in repeat], indexing="ij"), -1).reshape(-1, 3)
    everything = (positions[None] + (places @ box)[:, None]).reshape(-1, 3)
    return (
        torch.tensor(numbers * len(places)),
        torch.as_tensor(everything),
        torch.as_tensor(np.array(repeat)[:, None] * box),
    )


def network_of(name):
    torch.manual_seed(0)
    network = build_network(name, MODELS[name], [1, 8])
    if hasattr(network, "fit_statistics"):
        numbers, positions, box = water((1, 1, 1))
        index, vectors = periodic_pairs(10 * positions, 10 * box, network.cutoff)
        network.fit_statistics(numbers, vectors.float(), index)
    return network


def call_of(name, repeat, form="auto"):
    """A force call as OpenMM makes it: ``auto``, ``autograd``, or ``plain`` (tests/naive_networks.py)."""
    numbers, positions, box = water(repeat)
    network = network_of(name)
    if form == "plain":
        network.__class__ = naive_networks.PLAIN[name]
    model = ExportedModel(ForceField(network, numbers)).eval()
    fast = form == "auto" and name in ANALYTIC
    module = torch.jit.freeze(analytic(model) if fast else torch.jit.script(model))
    where = positions.requires_grad_()
    return lambda: module(where, box)


def timed(calls, rounds):
    """Smallest processor and wall time, s, of each call; calls take turns."""
    found = {key: [[], []] for key in calls}
    for key, call in calls.items():
        # TorchScript optimises in its first calls.
        for _ in range(2):
            call()
        del key
    for _ in range(rounds):
        for key, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            found[key][0].append(time.process_time() - cpu)
            found[key][1].append(time.perf_counter() - wall)
    return {key: (min(cpu), min(wall)) for key, (cpu, wall) in found.items()}


def memory_of_one_call(name, repeat):
    """MiB that two calls add to the peak memory of a fresh process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import scaling; "
        "print(scaling.added_memory(sys.argv[2], tuple(int(n) for n in sys.argv[3].split(','))))"
    )
    arguments = [sys.executable, "-c", code, str(HERE), name, ",".join(map(str, repeat))]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def added_memory(name, repeat):
    """The same, in this process."""
    torch.set_num_threads(1)
    torch.jit.set_fusion_strategy([])
    small = call_of(name, (1, 1, 1))
    for _ in range(2):
        small()
    call = call_of(name, repeat)
    # What the making of the module has freed goes back first.
    ctypes.CDLL(None).malloc_trim(0)
    before = _kilobytes("VmRSS")
    # From here on the kernel counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        call()
    return (_kilobytes("VmHWM") - before) / 1024.0


def _kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


def from_a_longer_list(positions, box, cutoff):
    """What a step with a skin would do instead of the search: the pairs of a longer list that are within the cutoff."""
    index, vectors = periodic_pairs(positions, box, cutoff + SKIN_A)
    difference = positions.detach()[index[1]] - positions.detach()[index[0]]
    shifts = torch.round((vectors - difference) @ torch.linalg.inv(box))

    @torch.jit.script
    def shortened(positions: torch.Tensor, index: torch.Tensor, offsets: torch.Tensor, cutoff: float):
        found = positions.index_select(0, index[1]) - positions.index_select(0, index[0]) + offsets
        kept = torch.nonzero((found * found).sum(1) < cutoff * cutoff).squeeze(1)
        return index.index_select(1, kept), found.index_select(0, kept)

    return functools.partial(shortened, positions.detach(), index, shifts @ box, cutoff)


def exponent(n_atoms, values):
    """Slope of log(value) over log(atoms), by least squares."""
    return float(np.polyfit(np.log(n_atoms), np.log(values), 1)[0])


def measure(largest, rounds):
    """All numbers as plain JSON."""
    repeats = [repeat for repeat in REPEATS if 192 * int(np.prod(repeat)) <= largest]
    atoms = [192 * int(np.prod(repeat)) for repeat in repeats]
    systems, forms, searches = {}, {}, {}
    # Below, what a process has free already hides what a call needs.
    weighed = [repeat for repeat, n in zip(repeats, atoms, strict=True) if n in (768, 3072, 12_288)]
    heavy = [192 * int(np.prod(repeat)) for repeat in weighed]
    for name, hyperparameters in MODELS.items():
        times = timed({repeat: call_of(name, repeat) for repeat in repeats}, rounds)
        cpu, wall = ([times[repeat][k] for repeat in repeats] for k in (0, 1))
        memory = [memory_of_one_call(name, repeat) for repeat in weighed]
        systems[name] = {
            "hyperparameters": hyperparameters,
            "evaluation": "analytic" if name in ANALYTIC else "autograd",
            "n_atoms": atoms,
            "cpu_s": cpu,
            "wall_s": wall,
            "exponent": exponent(atoms, cpu),
            "exponent_wall": exponent(atoms, wall),
            "memory_n_atoms": heavy,
            "added_memory_MiB": memory,
            "memory_exponent_from_768": exponent(heavy, memory) if len(heavy) > 1 else None,
        }
        _, positions, box = water(repeats[-1])
        arguments = 10 * positions, 10 * box, hyperparameters["cutoff"]
        search = timed({0: functools.partial(torch.jit.script(periodic_pairs), *arguments)}, rounds)[0][0]
        shortened = timed({0: from_a_longer_list(*arguments)}, rounds)[0][0]
        searches[name] = {
            "cutoff_A": hyperparameters["cutoff"],
            "n_atoms": atoms[-1],
            "cpu_s": search,
            "from_a_list_with_skin_cpu_s": shortened,
            "skin_A": SKIN_A,
            "share_of_a_call": search / cpu[-1],
            "most_that_a_skin_saves": (search - shortened) / cpu[-1],
        }
        print(name, json.dumps(systems[name]), json.dumps(searches[name]), flush=True)
    for name in naive_networks.PLAIN:
        kinds = ("plain", "autograd", "auto")
        times = timed({kind: call_of(name, (1, 1, 1), kind) for kind in kinds}, 3 * rounds)
        forms[name] = {
            "n_atoms": 192,
            **{f"{kind}_cpu_s": times[kind][0] for kind in kinds},
            "plain_over_auto": times["plain"][0] / times["auto"][0],
            "plain_over_autograd": times["plain"][0] / times["autograd"][0],
        }
        print(name, json.dumps(forms[name]), flush=True)
    return {
        **provenance(),
        "threads": 1,
        "systems": systems,
        "search": searches,
        "forms": forms,
    }


def plot(results, path):
    """Time and added memory of a call over the number of atoms, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), constrained_layout=True)
    for name, found in results["systems"].items():
        left.loglog(found["n_atoms"], found["cpu_s"], "o-", label=f"{name}, N$^{{{found['exponent']:.2f}}}$")
        right.loglog(found["memory_n_atoms"], found["added_memory_MiB"], "o-", label=name)
    atoms = np.array(results["systems"]["schnet"]["n_atoms"], dtype=float)
    start = results["systems"]["schnet"]["cpu_s"][0]
    left.loglog(atoms, start * (atoms / atoms[0]) ** 1.1, ":", color="grey", label="N$^{1.1}$")
    left.set(xlabel="atoms of water", ylabel="processor time of a force call (s)")
    right.set(xlabel="atoms of water", ylabel="memory that a call adds (MiB)")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(visible=True, which="major", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=12_288)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "scaling.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "figures" / "scaling.png")
    arguments = parser.parse_args()
    # As a simulation does.
    keep_memory()
    torch.set_num_threads(1)
    torch.jit.set_fusion_strategy([])
    results = measure(arguments.largest, arguments.rounds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, results)
    plot(results, arguments.figure)


if __name__ == "__main__":
    main()
