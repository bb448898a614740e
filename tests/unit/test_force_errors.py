"""Force errors beside a naive loop."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.force_errors import compute_force_mae, force_results

NUMBERS = np.array([6, 1, 1, 8])


@pytest.fixture
def forces():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 4, 3)), rng.normal(size=(12, 4, 3))


def naive_mae(predicted, true, atoms):
    per_frame = []
    for frame in range(len(true)):
        total, n = 0.0, 0
        for atom in atoms:
            for axis in range(3):
                total += abs(predicted[frame, atom, axis] - true[frame, atom, axis]) * 1000
                n += 1
        per_frame.append(total / n)
    mean = sum(per_frame) / len(per_frame)
    variance = sum((x - mean) ** 2 for x in per_frame) / (len(per_frame) - 1)
    return mean, (variance / len(per_frame)) ** 0.5


def test_against_a_naive_loop(forces):
    errors = compute_force_mae(*forces, NUMBERS)
    assert list(errors) == ["all", "H", "C", "O"]
    for name, atoms in (("all", range(4)), ("H", (1, 2)), ("C", (0,)), ("O", (3,))):
        mae, stderr = naive_mae(*forces, atoms)
        assert errors[name].mae_mev_A == pytest.approx(mae)
        assert errors[name].stderr_mev_A == pytest.approx(stderr)
        assert errors[name].n_atoms == len(atoms)


def test_by_hand():
    true = np.zeros((1, 4, 3))
    predicted = true.copy()
    predicted[0, 0] = (0.003, -0.006, 0.0)
    errors = compute_force_mae(predicted, true, NUMBERS)
    assert errors["C"].mae_mev_A == pytest.approx(3.0)
    assert errors["all"].mae_mev_A == pytest.approx(0.75)
    assert errors["all"].stderr_mev_A is None


def test_results_carry_unit_and_note(forces):
    results = force_results(compute_force_mae(*forces, NUMBERS), note="on test frames")
    assert [r.name for r in results] == ["force_mae", "force_mae_H", "force_mae_C", "force_mae_O"]
    assert {(r.unit, r.status, r.n_frames, r.note) for r in results} == {
        ("meV/A", "ok", 12, "on test frames")
    }


def test_bad_arrays(forces):
    predicted, true = forces
    with pytest.raises(MetricError, match=r"wanted both \(n_frames, 4, 3\)"):
        compute_force_mae(predicted[:, :3], true, NUMBERS)
    with pytest.raises(MetricError, match="no test frame"):
        compute_force_mae(predicted[:0], true[:0], NUMBERS)
    predicted[3, 1, 1] = np.nan
    with pytest.raises(MetricError, match="predicted forces hold NaN or Infinity in 1 of 12 frames"):
        compute_force_mae(predicted, true, NUMBERS)
