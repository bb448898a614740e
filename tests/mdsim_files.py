"""Files as MDsim publishes them, made of shipped structures."""

import pickle

import numpy as np

from openmm_mlbench.assets import asset_path
from openmm_mlbench.topology import find_bonds, read_structure

BOX_A = 12.44288


def npy(path, value, protocol=4):
    """Write like numpy.save, in any protocol."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(value, dtype=object), file, protocol=protocol)
    return path


def water_table(n_frames=5, seed=0):
    """MDsim's dictionary, made of the shipped structure, wrapped, in kcal/mol."""
    topology, positions = read_structure(asset_path("systems", "water", "topology.pdb"))
    rng = np.random.Generator(np.random.PCG64(seed))
    frames = positions + rng.normal(scale=0.02, size=(n_frames, *positions.shape))
    return {
        "wrapped_coords": np.mod(frames, BOX_A),
        "unwrapped_coords": frames,
        "forces": rng.normal(scale=20.0, size=frames.shape),
        "energy": rng.normal(-500.0, 5.0, size=n_frames),
        "atom_types": topology.atomic_numbers,
        "lengths": np.full(3, BOX_A),
        "angles": np.full(3, 90.0),
    }


def alanine_table(n_frames=4, shift=0.0):
    """The solute's dictionary, in kcal/mol."""
    topology, positions = read_structure(asset_path("systems", "alanine-dipeptide", "topology.pdb"))
    rng = np.random.Generator(np.random.PCG64(1))
    frames = positions + shift + rng.normal(scale=0.02, size=(n_frames, *positions.shape))
    # Bonds to hydrogen are rigid in these data.
    for first, second in find_bonds(topology.atomic_numbers, positions):
        heavy, hydrogen = (first, second) if topology.atomic_numbers[second] == 1 else (second, first)
        if topology.atomic_numbers[hydrogen] == 1:
            frames[:, hydrogen] = frames[:, heavy] + positions[hydrogen] - positions[heavy]
    return {
        "pos": frames.astype(np.float32),
        "force": rng.normal(scale=20.0, size=frames.shape).astype(np.float32),
        "atomic_number": topology.atomic_numbers,
        "lengths": np.full((n_frames, 3), 33.0),
        "angles": np.full((n_frames, 3), 90.0),
    }
