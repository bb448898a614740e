"""Which runs a rank correlation compares, time steps over one time, and the Pareto front."""

import json

import pytest

from openmm_mlbench.paper import MODELS
from openmm_mlbench.report.collection import collect, drawn_together, main_runs
from openmm_mlbench.report.comparisons import OURS, PAPER, comparable_runs, horizon_ps, rankings
from openmm_mlbench.report.figures import Trade, unbeaten
from openmm_mlbench.report.gallery import missing_figures, timestep_series, trade_of
from openmm_mlbench.report.table import results_of
from openmm_mlbench.results import METRICS_VERSION


def make_run(model, force, h_r, *, length=5.0, stable=None, protocol="ethanol", timestep=0.5, folder=""):
    """A run of two replicas; ``stable`` ps where they broke."""
    replica = {
        "index": 0,
        "time_ps": stable or length,
        "stable_ps": stable or length,
        "broke": stable is not None,
    }
    results = [
        {
            "name": name,
            "status": "ok",
            "value": value,
            "stderr": 0.01 * value,
            "floor": None,
            "note": "",
            "n_replicas": 2,
        }
        for name, value in (("force_mae", force), ("stability", stable or length), ("h_r_mae", h_r))
    ]
    return {
        "run": {
            "model": f"ethanol/{model}",
            "architecture": model,
            "dataset": "ethanol",
            "system": "ethanol",
            "protocol": protocol,
            "timestep_fs": timestep,
            "length_ps": length,
            "full_length_ps": 300.0,
            "n_replicas": 2,
            "replicas": [replica, replica | {"index": 1}],
            "label": f"{model}{folder}",
            "anchor": f"run-{model}{folder}",
        },
        "measurements": [{"observable": "x", "mode": "paper", "results": results, "curves": {}}],
    }


def find(found, quantity, source=OURS):
    (one,) = [ranking for ranking in found if ranking.quantity == quantity and ranking.source == source]
    return one


def test_errors_are_compared_at_the_length_that_most_models_have():
    runs = [make_run(model, 10.0 + i, 0.1 + 0.01 * i) for i, model in enumerate(MODELS)]
    # A longer run of one model scores less, for its length alone: it does not take the place of its short one.
    runs.append(make_run("nequip", 16.0, 0.01, length=300.0, folder=" long"))
    one = find(rankings(runs), "h_r_mae")
    assert len(one.points) == 7
    assert one.ran == "at 5 ps"
    assert {point.label for point in one.points} == set(MODELS)
    assert one.correlation.spearman.value == pytest.approx(1.0)
    assert one.verdict == "a lower force error goes with a smaller error"


def test_stability_is_cut_at_the_shortest_time_that_a_survivor_was_watched():
    runs = [
        make_run("schnet", 10.0, 0.1, length=300.0),
        make_run("dimenet", 5.0, 0.1, length=20.0),
        make_run("nequip", 1.0, 0.1, length=300.0, stable=8.0),
    ]
    one = find(rankings(runs), "stability")
    assert one.ran == "cut at 20 ps"
    assert {point.label: point.value for point in one.points} == {
        "schnet": 20.0,
        "dimenet": 20.0,
        "nequip": 8.0,
    }
    assert one.verdict == "not decided by our runs: 3 of at least 5 models"


def test_longer_stability_of_more_accurate_models_is_aligned():
    runs = [
        make_run(model, 10.0 + i, 0.1, length=300.0, stable=200.0 - 20.0 * i)
        for i, model in enumerate(MODELS)
    ]
    found = rankings(runs)
    assert find(found, "stability").verdict == "a lower force error goes with longer stability"
    turned = [
        make_run(model, 10.0 + i, 0.1, length=300.0, stable=20.0 + 20.0 * i) for i, model in enumerate(MODELS)
    ]
    assert find(rankings(turned), "stability").verdict == "a lower force error goes with shorter stability"
    # The paper's own numbers stand beside it.
    assert len(find(found, "stability", PAPER).points) == 7


def test_variants_do_not_count():
    runs = [make_run("schnet", 10.0, 0.1), make_run("dimenet", 5.0, 0.1, protocol="ethanol-langevin")]
    assert [point.model for point in find(rankings(runs), "h_r_mae").points] == ["schnet"]


def of_campaign(metrics, name, seed):
    metrics["run"] |= {
        "model": f"models/ethanol/{name}/seed-{seed}-abc.pt",
        "provenance": {"campaign": {"campaign": "x", "model": name, "system": "ethanol", "seed": seed}},
        "entry_label": name,
    }
    return metrics


def test_seeds_are_one_model_with_their_spread():
    runs = [
        of_campaign(make_run("schnet", force, h_r, length=5.0 + stable, stable=stable), "short", seed)
        for seed, (force, h_r, stable) in enumerate(((10.0, 0.1, 1.0), (12.0, 0.2, 3.0), (14.0, 0.3, 5.0)))
    ]
    for metrics in runs:
        metrics["run"]["length_ps"] = 5.0
    runs += [of_campaign(make_run("schnet", 9.0, 0.5, stable=4.0), "long", 0)]
    found = rankings(runs)
    for quantity, values in (("h_r_mae", (0.2, 0.5)), ("stability", (3.0, 4.0))):
        points = {point.label: point for point in find(found, quantity).points}
        assert set(points) == {"short, 3 seeds", "schnet"}
        assert points["short, 3 seeds"].force_mae == pytest.approx(12.0)
        assert points["short, 3 seeds"].force_stderr == pytest.approx(2.0 / 3**0.5)
        assert points["short, 3 seeds"].value == pytest.approx(values[0])
        # Another recipe of the same architecture is another model.
        assert points["schnet"].value == values[1]


def test_errors_of_observables_are_drawn_of_runs_of_one_length():
    runs = [make_run("schnet", 10.0, 0.08, length=300.0), make_run("nequip", 5.0, 0.2)]
    runs += [make_run("schnet", 10.0, 0.2, folder=" short"), make_run("dimenet", 6.0, 0.21)]
    compared, length = comparable_runs(runs, "h_r_mae")
    assert (length, len(compared)) == (5.0, 3)
    assert {results_of(metrics)["h_r_mae"]["value"] for metrics in compared} == {0.2, 0.21}


def test_the_trade_is_judged_over_the_time_that_all_were_watched():
    runs = [make_run("schnet", 10.0, 0.1, length=300.0), make_run("nequip", 5.0, 0.1)]
    runs.append(make_run("dimenet", 5.0, 0.1, length=300.0, stable=1.0))
    for metrics in runs:
        metrics["measurements"][0]["results"].append(
            {"name": "steps_per_second", "value": 10.0, "stderr": None, "status": "ok"}
        )
    horizon = horizon_ps(runs)
    assert horizon == 5.0
    assert [trade_of(metrics, horizon).stable_share for metrics in runs] == [1.0, 1.0, 0.2]


def test_time_steps_are_compared_over_the_same_time():
    runs = [
        make_run("schnet", 10.0, 0.1, length=300.0),
        make_run("schnet", 10.0, 0.1, length=20.0, protocol="ethanol-dt1", timestep=1.0),
        make_run("schnet", 10.0, 0.1, length=20.0, protocol="ethanol-dt0.25", timestep=0.25, stable=3.0),
        make_run("schnet", 10.0, 0.1, length=20.0, protocol="ethanol-langevin", timestep=0.5),
        make_run("nequip", 1.0, 0.1),
    ]
    ((label, model, points),) = timestep_series(runs)
    assert (label, model) == ("SchNet, first 20 ps", "schnet")
    assert [(p.timestep_fs, p.value_ps, p.bound) for p in points] == [
        (0.25, 3.0, False), (0.5, 20.0, True), (1.0, 20.0, True),
    ]  # fmt: skip


def test_the_pareto_front_holds_whom_nobody_beats():
    def trade(force, speed, share):
        return Trade(
            label="", model="", anchor="", force_mae=force, steps_per_second=speed, stable_share=share
        )

    best, dominated, slow, twin = trade(1, 10, 1), trade(2, 10, 1), trade(0.5, 1, 0.1), trade(1, 10, 1)
    assert unbeaten([best, dominated, slow, twin]) == [True, False, True, True]


def test_figures_without_data_are_gaps_with_commands():
    gaps = missing_figures([make_run("schnet", 10.0, 0.1)], [])
    assert {gap.figure for gap in gaps} == {
        "1",
        "3",
        "4",
        "5",
        "5 d",
        "5 e",
        "6",
        "9",
        "10",
        "11",
        "12",
        "13",
    }
    ethanol = next(gap for gap in gaps if (gap.figure, gap.dataset) == ("9", "ethanol"))
    assert ethanol.why == "1 of 7 models were run"
    assert len(ethanol.commands) == 6
    assert all("schnet" not in command for command in ethanol.commands)
    energy = next(gap for gap in gaps if gap.figure == "5 d")
    assert "simulate lips-nve" in energy.commands[0]


def _runs_in(folder, wanted):
    """metrics.json files of (model, protocol, ps[, campaign]) and the runs that a report finds in them."""
    for number, (model, protocol, length_ps, *campaign) in enumerate(wanted):
        run = {
            "model": model,
            "architecture": "schnet",
            "system": "ethanol",
            "dataset": "ethanol",
            "protocol": protocol,
            "length_ps": length_ps,
            "threshold_A": 0.5,
            "replicas": 2 * [{"time_ps": length_ps}],
            "provenance": {"campaign": dict(zip(("model", "seed"), campaign, strict=True))}
            if campaign
            else {},
        }
        place = folder / str(number)
        place.mkdir()
        metrics = {"format_version": METRICS_VERSION, "run": run, "measurements": []}
        (place / "metrics.json").write_text(json.dumps(metrics))
    return collect([folder]).runs


def test_runs_of_one_model_are_told_apart_by_what_differs(tmp_path):
    """The protocol's variant, then the length, then the folder; a name that is one already stays."""
    wanted = [
        ("ethanol/schnet", "ethanol", 300.0),
        ("ethanol/schnet", "ethanol", 5.0),
        ("ethanol/schnet", "ethanol-nve", 5.0),
        ("mine.pt", "ethanol", 5.0),
        ("other.pt", "ethanol", 7.0),
        ("other.pt", "ethanol", 7.0),
    ]
    runs = _runs_in(tmp_path, wanted)
    times = "\N{MULTIPLICATION SIGN}"
    assert [metrics["run"]["label"] for metrics in runs] == [
        f"SchNet, 2 {times} 300 ps",
        f"SchNet, 2 {times} 5 ps",
        "SchNet, nve",
        "mine.pt",
        f"other.pt ({tmp_path / '4'})",
        f"other.pt ({tmp_path / '5'})",
    ]


def test_models_of_a_campaign_have_the_names_that_it_gives_them(tmp_path):
    wanted = [
        ("models/ethanol/schnet/seed-0-a.pt", "ethanol", 5.0, "schnet", 0),
        ("models/ethanol/schnet/seed-1-b.pt", "ethanol", 5.0, "schnet", 1),
        ("models/ethanol/long/seed-0-c.pt", "ethanol", 5.0, "long", 0),
        ("models/ethanol/long/seed-0-c.pt", "ethanol-nve", 5.0, "long", 0),
    ]
    assert [metrics["run"]["label"] for metrics in _runs_in(tmp_path, wanted)] == [
        "SchNet, seed 0",
        "SchNet, seed 1",
        "SchNet, long",
        "SchNet, long, nve",
    ]


def test_figures_of_many_models_show_each_once(tmp_path):
    """The main run of a model, though two have one architecture; of a model without one whatever there is."""
    wanted = [
        ("a.pt", "ethanol", 5.0),
        ("a.pt", "ethanol", 300.0),
        ("a.pt", "ethanol-nve", 300.0),
        ("b.pt", "ethanol", 5.0),
        ("c.pt", "ethanol-nve", 5.0),
        ("c.pt", "ethanol-dt1", 5.0),
    ]
    runs = _runs_in(tmp_path, wanted)
    assert [runs.index(metrics) for metrics in main_runs(runs)] == [1, 3]
    assert [runs.index(metrics) for metrics in drawn_together(runs)] == [1, 3, 4, 5]
