"""Steps per second of replicas that shared a Context are comparable with those of replicas that did not."""

import pytest

from openmm_mlbench.metrics.speed import context_speeds, speed_results


def test_replicas_of_one_context_are_added():
    batch = [0, 1, 2, 3, 4]
    assert context_speeds([120.0] * 5, [batch] * 5) == [600.0]
    # One that was frozen out, one that wrote nothing down.
    assert context_speeds([100.0, 120.0, None], [[0, 1, 2]] * 3) == [pytest.approx(330.0)]


def test_replicas_of_their_own_stay_as_they_are():
    assert context_speeds([200.0, None, 210.0], [None, None, [2]]) == [200.0, None, 210.0]
    assert context_speeds([200.0, 50.0, 50.0], [None, [1, 2], [1, 2]]) == [200.0, 100.0]


def test_a_batch_is_one_measurement_and_says_so():
    steps = speed_results([600.0], 0.5, 9, "Reference", 5)[0]
    assert (steps.value, steps.stderr) == (600.0, None)
    assert "5 replicas in one Context, their steps added" in steps.note
