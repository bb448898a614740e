"""The dense table of triplets against a loop over edges, and sums over it."""

import numpy as np
import pytest
import torch

from openmm_mlbench.models.neighbours import all_pairs, open_pairs, periodic_pairs
from openmm_mlbench.models.triplets import (
    fixed_neighbourhoods,
    from_places,
    into_places,
    neighbourhoods,
    sum_at_centres,
)

CUTOFF = 3.0
SMALL = np.array([[2.6, 0.0, 0.0], [0.9, 3.4, 0.0], [-0.4, 0.8, 4.0]])
FLOAT64 = torch.zeros(0, dtype=torch.float64)


def scattered(n_atoms, seed=0, size=5.0):
    return np.random.default_rng(seed).uniform(0, size, (n_atoms, 3))


def pairs_of(case):
    """Atoms, pair_index, pair_vectors."""
    if case == "molecule":
        where = torch.as_tensor(scattered(6))
        index = all_pairs(6, where.device)
        return 6, index, where[index[1]] - where[index[0]]
    if case == "ragged":
        # The last atom is alone.
        where = torch.as_tensor(np.concatenate([scattered(7), [[30.0, 0.0, 0.0]]]))
        return (8, *open_pairs(where, CUTOFF))
    if case == "small cell":
        return (3, *periodic_pairs(torch.as_tensor(scattered(3)), torch.as_tensor(SMALL), CUTOFF))
    if case == "own images":
        return (1, *periodic_pairs(torch.zeros(1, 3, dtype=torch.float64), torch.as_tensor(SMALL), CUTOFF))
    if case == "one pair":
        return 2, torch.tensor([[0], [1]]), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    return 1, torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.float64)


CASES = ["molecule", "ragged", "small cell", "own images", "one pair", "lone atom"]


def naive_triplets(index, vectors):
    """Every k -> j -> i as (k, j, i, vector to k, vector to i), from a loop over all edges."""
    edges = []
    for (a, b), vector in zip(index.T.tolist(), vectors.tolist(), strict=True):
        edges.append((a, b, tuple(vector)))
        edges.append((b, a, tuple(-x for x in vector)))
    found = []
    for place, (centre, k, to_k) in enumerate(edges):
        for other, (same, i, to_i) in enumerate(edges):
            # The edge itself, turned round, is no triplet.  The same atom in another image is.
            if centre == same and place != other:
                found.append((k, centre, i, *to_k, *to_i))
    return sorted(found)


@pytest.mark.parametrize("case", CASES)
def test_the_table_holds_the_triplets_of_the_loop(case):
    n_atoms, index, vectors = pairs_of(case)
    for search in (neighbourhoods, torch.jit.script(neighbourhoods)):
        centre, neighbour, pair, sign, places, _, _, _, apart = search(index, n_atoms, FLOAT64)
        largest = apart.size(2)
        edges = places if len(places) else torch.arange(len(centre))
        directed = vectors[pair] * sign
        found = []
        for atom, p, q in np.ndindex(n_atoms, largest, largest):
            if not apart.expand(n_atoms, -1, -1)[atom, p, q]:
                continue
            one, other = int(edges[atom * largest + p]), int(edges[atom * largest + q])
            assert centre[one] == centre[other] == atom
            found.append(
                (
                    int(neighbour[one]),
                    atom,
                    int(neighbour[other]),
                    *directed[one].tolist(),
                    *directed[other].tolist(),
                )
            )
        assert sorted(found) == naive_triplets(index, vectors)


def test_the_cases_are_what_they_are_meant_to_be():
    """Ragged places, images of the same atom at both ends, and no triplet at all do occur."""
    n_atoms, index, _ = pairs_of("ragged")
    places = neighbourhoods(index, n_atoms, FLOAT64)[4]
    assert len(places) > 2 * index.size(1)
    assert len(neighbourhoods(*reversed(pairs_of("molecule")[:2]), FLOAT64)[4]) == 0
    triplets = naive_triplets(*pairs_of("small cell")[1:])
    assert any(k == i != j for k, j, i, *_ in triplets)
    assert len(naive_triplets(*pairs_of("own images")[1:])) > 0
    assert naive_triplets(*pairs_of("one pair")[1:]) == []


@pytest.mark.parametrize("case", CASES)
def test_reverse_is_the_other_direction(case):
    n_atoms, index, vectors = pairs_of(case)
    centre, neighbour, pair, sign, _, slots, opposite, reverse, _ = neighbourhoods(index, n_atoms, FLOAT64)
    edge_at = {int(slot): edge for edge, slot in enumerate(slots)}
    assert len(edge_at) == len(centre) == 2 * index.size(1)
    directed = vectors[pair] * sign
    for edge, slot in enumerate(reverse.tolist()):
        back = edge_at[slot]
        assert back == int(opposite[edge])
        assert back != edge
        assert (int(centre[back]), int(neighbour[back])) == (int(neighbour[edge]), int(centre[edge]))
        np.testing.assert_array_equal(directed[back], -directed[edge])


@pytest.mark.parametrize("case", CASES)
def test_places_and_sums(case):
    n_atoms, index, _ = pairs_of(case)
    centre, _, _, _, places, slots, _, _, apart = neighbourhoods(index, n_atoms, FLOAT64)
    values = torch.as_tensor(np.random.default_rng(1).normal(size=(2, len(centre), 3)))
    wanted = np.zeros((2, n_atoms, 3))
    for edge, atom in enumerate(centre):
        wanted[:, atom] += values[:, edge].numpy()
    np.testing.assert_allclose(sum_at_centres(values, centre, places, n_atoms), wanted, atol=1e-14)
    placed = into_places(values[0], places)
    assert len(placed) == n_atoms * apart.size(2)
    np.testing.assert_array_equal(from_places(placed, places, slots), values[0])


@pytest.mark.parametrize("case", CASES)
def test_fixed_places_hold_the_same_triplets(case):
    """Rows longer than needed, and places of the list that hold no pair."""
    n_atoms, index, _ = pairs_of(case)
    plain = neighbourhoods(index, n_atoms, FLOAT64)
    most = plain[8].size(2)
    n_pairs = index.size(1)
    padded = torch.cat([index, torch.arange(5).remainder(n_atoms).expand(2, -1)], dim=1)
    filled = torch.arange(n_pairs + 5) < n_pairs
    longer, full = fixed_neighbourhoods(padded, filled, n_atoms, FLOAT64, most + 2)
    centre, neighbour, pair, sign, places, slots, opposite, reverse, apart = longer
    assert not full
    assert apart.shape == (n_atoms, most + 2, most + 2)
    assert apart.sum() == plain[8].expand(n_atoms, -1, -1).sum()
    exists = filled.repeat(2)

    def edges(tensors, kept):
        return sorted(zip(*(tensor[kept].flatten().tolist() for tensor in tensors), strict=True))

    everything = torch.ones_like(plain[0], dtype=torch.bool)
    assert edges(longer[:4], exists) == edges(plain[:4], everything)
    np.testing.assert_array_equal(places[slots][exists], torch.arange(len(centre))[exists])
    np.testing.assert_array_equal(centre[exists], slots[exists] // (most + 2))
    np.testing.assert_array_equal(centre[opposite], neighbour)
    np.testing.assert_array_equal(pair[opposite], pair)
    np.testing.assert_array_equal(sign[opposite], -sign)
    np.testing.assert_array_equal(reverse, slots[opposite])
    if most > 1:
        assert fixed_neighbourhoods(padded, filled, n_atoms, FLOAT64, most - 1)[1]
