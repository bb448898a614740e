"""Force errors beside a naive loop."""

import numpy as np
import pytest

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.force_errors import (
    compute_force_mae,
    cosine_result,
    energy_results,
    force_results,
    parity_curve,
)

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
    assert [r.name for r in results] == [
        "force_mae", "force_mae_H", "force_mae_C", "force_mae_O",
        "force_rmse", "force_rmse_H", "force_rmse_C", "force_rmse_O",
    ]  # fmt: skip
    predicted, true = forces
    for number, symbol in ((1, "H"), (6, "C"), (8, "O")):
        errors = 1000 * (predicted - true)[:, np.asarray(NUMBERS) == number]
        (found,) = (r.value for r in results if r.name == f"force_rmse_{symbol}")
        assert found == pytest.approx(np.sqrt((errors**2).mean()))
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


def test_rmse_is_the_root_of_the_mean_over_all_components(forces):
    predicted, true = forces
    error = compute_force_mae(predicted, true, NUMBERS)["all"]
    assert error.rmse_mev_A == pytest.approx(1000 * np.sqrt(((predicted - true) ** 2).mean()))
    # Jackknife over frames, which the linear propagation must agree with.
    left_out = [
        1000 * np.sqrt(np.delete((predicted - true) ** 2, frame, axis=0).mean()) for frame in range(len(true))
    ]
    jackknife = np.sqrt((len(true) - 1) * np.var(left_out))
    assert error.rmse_stderr_mev_A == pytest.approx(jackknife, rel=0.1)


def test_cosine_by_hand():
    true = np.array([[[1.0, 0, 0], [0, 2, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]]])
    predicted = np.array([[[5.0, 0, 0], [0, -1, 0], [1, 1, 1]], [[0, 0, 2], [0, 1, 1], [1, 0, 0]]])
    result = cosine_result(predicted, true)
    # First frame: 1 and -1, the third atom has no true force; second: 1, 1/sqrt(2), 0.
    assert result.value == pytest.approx((0 + (1 + np.sqrt(0.5)) / 3) / 2)
    assert cosine_result(0 * predicted, true).status == "unsupported"


def test_energies_with_and_without_their_shift():
    true = np.array([-10.0, -11.0, -12.0, -13.0])
    predicted = true + 0.5 + np.array([0.01, -0.01, 0.03, -0.03])
    whole, per_atom, whole_rms, rms_per_atom = energy_results(predicted, true, n_atoms=4)
    assert (whole_rms.name, rms_per_atom.name) == ("energy_rmse", "energy_rmse_per_atom")
    assert whole_rms.value == pytest.approx(1000 * np.sqrt(0.25 + 0.0005))
    assert rms_per_atom.value == pytest.approx(1000 * np.sqrt(0.0005) / 4)
    assert (whole.name, whole.value) == ("energy_mae", pytest.approx(500.0))
    assert (per_atom.name, per_atom.value) == ("energy_mae_per_atom", pytest.approx(20.0 / 4))
    assert "500 meV" in per_atom.note
    assert {r.status for r in energy_results(None, true, 4)} == {"unsupported"}
    assert {r.status for r in energy_results(predicted, None, 4)} == {"no_reference"}
    with pytest.raises(MetricError, match="wanted both"):
        energy_results(predicted[:2], true, 4)
    with pytest.raises(MetricError, match="NaN"):
        energy_results(predicted * np.nan, true, 4)


def test_parity_keeps_both_ends_and_few_points():
    true = np.linspace(-3, 3, 9000).reshape(-1, 3, 3)
    curve = parity_curve(true, 2 * true, "eV/A")
    assert len(curve.x) <= 2000
    assert (curve.x[0], curve.x[-1]) == (-3.0, 3.0)
    np.testing.assert_allclose(curve.y, 2 * np.array(curve.x), rtol=1e-6)
