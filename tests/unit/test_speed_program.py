"""Clocks, counted operations and tables of the speed program, on programs whose cost is known."""

import time

import pytest
import torch

from openmm_mlbench.speed import tables
from openmm_mlbench.speed.clocks import Timing, Window, take_turns
from openmm_mlbench.speed.operators import computing, count_operators, data_dependent, profile_operators
from openmm_mlbench.speed.program import derive, key_of, machine, merge


def burn(n_steps):
    """One millisecond of processor time per step."""
    for _ in range(n_steps):
        end = time.process_time() + 1e-3
        while time.process_time() < end:
            pass


def test_waiting_costs_wall_time_and_working_process_time():
    found = take_turns(
        {"work": Window(burn), "wait": Window(lambda n: time.sleep(2e-3 * n))},
        seconds=0.0,
        window_s=0.02,
        least_rounds=4,
    )
    assert found["work"].windows == found["wait"].windows == 4
    assert 1000.0 <= found["work"].process_us_min <= found["work"].process_us_median < 1500.0
    assert found["work"].wall_us_min >= found["work"].process_us_min * 0.999
    assert found["wait"].wall_us_min >= 2000.0
    assert found["wait"].process_us_min < 500.0


def test_windows_take_turns_and_every_one_starts_anew():
    order = []
    started = []
    windows = {
        name: Window(
            lambda n, name=name: (order.append((name, n)), burn(1)), lambda name=name: started.append(name)
        )
        for name in "abc"
    }
    steps = take_turns(windows, seconds=0.0, window_s=1e-4, least_rounds=3, warm_up=7)
    assert [entry for entry in order if entry[1] == 7] == [("a", 7), ("b", 7), ("c", 7)]
    # A step that is not timed, and one that is.
    assert order[-18:] == [(name, 1) for name in "aabbccaabbccaabbcc"]
    assert started == list("aabbcc" + 3 * "abc")
    assert all(timing.steps_per_window == 1 for timing in steps.values())


def test_the_time_of_a_start_and_of_the_first_step_after_it_does_not_count():
    cold = []

    def run(n_steps):
        burn(n_steps + 20 * len(cold))
        cold.clear()

    window = Window(run, lambda: cold.append(burn(20)))
    found = take_turns({"work": window}, seconds=0.0, window_s=0.002, least_rounds=2)
    assert found["work"].process_us_min < 2000.0


def test_operations_are_those_that_run():
    a = torch.randn(4, 5)

    def call():
        # 2 products, 1 sum of columns, 1 view.
        return (torch.mm(a, a.t()) * 2.0).sum(0)

    counts = count_operators(call)
    assert counts == {"aten.t": 1, "aten.mm": 1, "aten.mul": 1, "aten.sum": 1}
    assert computing(counts) == 3
    again, times = profile_operators(call, calls=3)
    assert again == counts
    assert set(times) == set(counts)
    assert all(value > 0 for value in times.values())


def test_operations_inside_torchscript_and_of_autograd_are_seen():
    @torch.jit.script
    def energy_and_gradient(x: torch.Tensor):
        y = x.detach().requires_grad_()
        return torch.autograd.grad([torch.sin(y).sum()], [y])[0]

    counts = count_operators(lambda: energy_and_gradient(torch.randn(3)))
    assert counts["aten.sin"] == 1
    assert counts["aten.cos"] == 1


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda x: x[x > 0], True),
        (torch.nonzero, True),
        (lambda x: x.sum().item(), True),
        (lambda x: torch.repeat_interleave(torch.arange(3), torch.tensor([1, 2, 0])), True),
        (lambda x: torch.repeat_interleave(x, torch.tensor([1, 1, 1]), output_size=3), False),
        (lambda x: x[torch.tensor([0, 2])], False),
        (lambda x: torch.where(x > 0, x, 0.0), False),
        (lambda x: torch.cumsum(x, 0).index_select(0, torch.tensor([1])), False),
    ],
)
def test_shapes_that_hang_on_values_are_found(call, found):
    x = torch.tensor([1.0, -1.0, 2.0])
    assert bool(data_dependent(count_operators(lambda: call(x)))) == found


def timing(process, wall=None):
    wall = process if wall is None else wall
    return Timing(
        wall_us_min=wall,
        wall_us_median=2.0 * wall,
        process_us_min=process,
        process_us_median=process,
        steps_per_window=10,
        windows=3,
    )


TIMINGS = {
    "network": timing(980.0),
    "torchforce": timing(1000.0, wall=1250.0),
    "torchforce, autograd": timing(2000.0),
    "pythonforce": timing(800.0),
    "ase": timing(1500.0),
    "ase, autograd": timing(3000.0),
    "engine": timing(10.0),
}


def test_ratios_come_from_process_time_and_speeds_from_wall_time():
    found = derive(TIMINGS)
    assert found == {
        "steps_per_second": 800.0,
        "engine_us": 10.0,
        "engine_fraction": 0.01,
        "step_minus_network_us": 20.0,
        "gain_over_autograd": 2.0,
        "gain_over_ase": 1.5,
        "gain_over_ase_autograd": 3.0,
        "gain_of_pythonforce": 1.25,
        "gain_over_openmm_ml": None,
        "busy": 2.0,
    }
    assert derive(TIMINGS, on_gpu=True)["gain_over_ase"] == pytest.approx(1.2)


def entry(model="schnet", system="ethanol", platform="Reference", **changes):
    return {
        "model": model,
        "system": system,
        "n_atoms": 9,
        "weights": "fresh",
        "platform": platform,
        "device": "cpu",
        "threads": 1,
        "variants": {name: value.as_dict() for name, value in TIMINGS.items()},
        "missing": {"openmm-ml": "not there"},
        "operators": {"executed": 212, "computing": 190, "data_dependent": []},
        "batching": {"gain": None, "reason": "not tried"},
        "derived": derive(TIMINGS),
        **changes,
    }


def test_a_new_measurement_takes_the_place_of_the_old_one_only():
    old = [entry(), entry(system="water", n_atoms=192)]
    new = entry(batching={"gain": 2.5, "reason": ""})
    merged = merge(old, [new, entry(platform="CUDA", device="a GPU")])
    assert [key_of(one)[1:4:2] for one in merged] == [
        ("ethanol", "Reference"),
        ("water", "Reference"),
        ("ethanol", "CUDA"),
    ]
    assert merged[0]["batching"]["gain"] == 2.5
    assert [one["n_atoms"] for one in tables.sort(merged)] == [9, 9, 192]


def test_the_table_says_what_is_missing_and_why():
    cells = dict(zip(tables.COLUMNS, tables.rows([entry()])[0], strict=True))
    assert cells["TorchForce"] == "1250 / 1000 us"
    assert cells["steps/s"] == "800"
    assert cells["engine"] == "10.0 us"
    assert cells["of step"] == "1 %"
    assert cells["OpenMM-ML"] == cells["batch of 5"] == "-"
    said = tables.notes([entry()])
    assert "schnet on ethanol, openmm-ml: not there" in said
    assert "batch of 5: not tried" in said
    assert any(line.startswith("CUDA: not measured") for line in said)
    assert not any(line.startswith("CUDA") for line in tables.notes([entry(platform="CUDA")]))


def test_a_machine_is_described_without_its_name():
    import platform

    found = machine()
    assert found["cores"] >= 1
    assert found["versions"]["torch"].startswith("2.")
    assert platform.node() not in str(found)
