"""How long metrics take on one core, beside mdtraj and freud on the same frames, and in how much memory.

OMP_NUM_THREADS=1 python benchmarks/measure_speed.py [--frames 5000] [--dcd-gb 10]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import mdtraj
import numpy as np

from openmm_mlbench.metrics.distances import compute_h_r
from openmm_mlbench.metrics.rdf import AtomPairs, RDFAccumulator, compute_rdf
from openmm_mlbench.trajectory import Trajectory
from openmm_mlbench.trajectory_stream import open_trajectory

BOX_NM = 1.244288


def timed(label, function):
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    print(f"{label:45s} {time.perf_counter() - wall:8.2f} s wall {time.process_time() - cpu:8.2f} s CPU")
    return value


def water(n_frames):
    rng = np.random.default_rng(0)
    numbers = np.tile([8, 1, 1], 64)
    positions = rng.random((n_frames, 192, 3)).astype(np.float32) * BOX_NM
    boxes = np.tile(BOX_NM * np.eye(3), (n_frames, 1, 1))
    return Trajectory(
        positions_nm=positions.astype(np.float64),
        box_vectors_nm=boxes,
        atomic_numbers=numbers,
        frame_interval_ps=0.1,
    )


def mdtraj_topology(numbers):
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for number in numbers:
        topology.add_atom("X", mdtraj.element.Element.getByAtomicNumber(int(number)), residue)
    return topology


def rdfs(n_frames):
    one = water(n_frames)
    oxygen, hydrogen = (np.flatnonzero(one.atomic_numbers == z) for z in (8, 1))
    pairs = [
        AtomPairs(label="O-O", a=oxygen, b=oxygen),
        AtomPairs(label="H-H", a=hydrogen, b=hydrogen),
        AtomPairs(label="O-H", a=oxygen, b=hydrogen),
    ]
    compute_rdf(water(1), pairs)  # compiles, or reads what an earlier process compiled
    timed(f"three water RDFs, {n_frames} frames", lambda: compute_rdf(one, pairs))
    topology = mdtraj_topology(one.atomic_numbers)
    lengths = {
        "unitcell_lengths": np.full((n_frames, 3), BOX_NM),
        "unitcell_angles": np.full((n_frames, 3), 90.0),
    }
    peer = mdtraj.Trajectory(one.positions_nm.astype(np.float32), topology, **lengths)

    def with_mdtraj():
        for pair in pairs:
            mdtraj.compute_rdf(peer, topology.select_pairs(pair.a, pair.b), r_range=(0, 0.6), n_bins=500)

    timed("    mdtraj", with_mdtraj)
    try:
        import freud
    except ImportError:
        print("    freud is not installed")
        return
    freud.parallel.set_num_threads(1)
    box = freud.box.Box.cube(10 * BOX_NM)
    single = (10 * one.positions_nm).astype(np.float32)

    def with_freud():
        for pair in pairs:
            rdf = freud.density.RDF(500, 6.0)
            for frame in single:
                points = (box, frame[pair.b])
                query = {} if pair.same else {"query_points": frame[pair.a], "neighbors": {"r_max": 6.0}}
                rdf.compute(points, reset=False, **query)

    timed("    freud", with_freud)


def distances(n_frames):
    positions = np.random.default_rng(1).random((n_frames, 21, 3)) * 6
    timed(f"h(r) of aspirin, {n_frames} frames", lambda: compute_h_r(positions))


def long_dcd(gigabytes):
    """An O-O RDF of a DCD that does not fit into memory."""
    one = water(2000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.dcd"
        header = {"cell_lengths": np.full((2000, 3), 10 * BOX_NM), "cell_angles": np.full((2000, 3), 90.0)}
        with mdtraj.formats.DCDTrajectoryFile(str(path), "w") as file:
            while not path.exists() or path.stat().st_size < gigabytes * 1e9:
                file.write((10 * one.positions_nm).astype(np.float32), **header)
        size = path.stat().st_size / 1e9
        file = open_trajectory(path, one.atomic_numbers, 0.1)
        oxygen = np.flatnonzero(one.atomic_numbers == 8)
        counting = RDFAccumulator([AtomPairs(label="O-O", a=oxygen, b=oxygen)], file.n_frames)

        def stream():
            for chunk in file.chunks():
                counting.add(chunk)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        timed(f"O-O RDF of a DCD of {size:.1f} GB, {file.n_frames} frames", stream)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"    largest memory {after:.2f} GB, {before:.2f} GB before")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--h-r-frames", type=int, default=100_000)
    parser.add_argument("--dcd-gb", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.dcd_gb:
        long_dcd(arguments.dcd_gb)
    rdfs(arguments.frames)
    distances(arguments.h_r_frames)


if __name__ == "__main__":
    main()
