"""How numbers, lengths and rows of the report are printed."""

from pathlib import Path

import numpy as np
import pytest

from openmm_mlbench import cli
from openmm_mlbench.paper import BY_ITS_PROGRAM, TABLES, paper_table
from openmm_mlbench.report.collection import CONTROL, FULL, SHORT, VARIANT, completeness
from openmm_mlbench.report.gaps import command_for
from openmm_mlbench.report.table import (
    MISSING,
    TIMES,
    Notes,
    columns_of,
    compare_with_paper,
    format_lengths,
    format_number,
    label_columns_of,
    make_rows,
    plain_rows,
    replica_columns_of,
    systems_of,
)
from openmm_mlbench.results import wide_angles
from openmm_mlbench.training.recipe_files import SIZES
from openmm_mlbench.training.start import size_in_name


@pytest.mark.parametrize(
    ("value", "stderr", "decimals", "text"),
    [
        (247.0, 47.4, None, "247 ± 47"),
        (0.08312, 0.00421, None, "0.0831 ± 0.0042"),
        (499.123, 4.2, None, "499.1 ± 4.2"),
        (561.4, None, None, "561"),
        (0.0831, None, None, "0.0831"),
        (5.0, None, None, "5.00"),
        (0.0, None, None, "0"),
        (12345.6, 321.0, None, "12346 ± 321"),
        (8.9, None, 1, "8.9"),
        (0.21, 0.0492, 2, "0.21 ± 0.05"),
        (-0.5, 0.1, None, "-0.50 ± 0.10"),
        (1.0, 4.3e-11, None, "1.000000 ± 4e-11"),
    ],
)
def test_numbers(value, stderr, decimals, text):
    assert format_number(value, stderr, decimals) == text


ETHANOL = paper_table("ethanol", "ethanol")


def test_lengths_tell_what_really_ran():
    plain = [
        text.replace("\N{NO-BREAK SPACE}", " ")
        for text in map(format_lengths, ([5, 5], [300, 12.4, 300], []))
    ]
    assert plain == [f"2 {TIMES} 5 ps", f"2 {TIMES} 300 ps, 1 {TIMES} 12.4 ps", "nothing"]


def make_metrics(results=(), mode="standard", **changes):
    run = {
        "model": "ethanol-gfn2/schnet",
        "architecture": "schnet",
        "system": "ethanol",
        "dataset": "ethanol-gfn2",
        "n_train": 1000,
        "protocol": "ethanol",
        "length_ps": 5.0,
        "threshold_A": 0.5,
        "replicas": [{"time_ps": 5.0}, {"time_ps": 5.0}],
    }
    return {
        "run": run | changes,
        "measurements": [{"observable": "x", "mode": mode, "results": list(results), "curves": {}}],
    }


def result(name, **changes):
    empty = {
        "name": name,
        "status": "ok",
        "value": None,
        "stderr": None,
        "floor": None,
        "note": "",
        "n_replicas": 2,
    }
    return empty | changes


def cell_of(row, name, runs):
    return row.cells[[column.name for column in columns_of(runs)].index(name)]


def test_our_row_and_the_papers():
    notes = Notes()
    results = [
        result("stability", status="censored", value=5.0, note="a lower bound"),
        result("n_finished", value=2.0),
        result("h_r_mae", value=0.083, stderr=0.004, floor=0.061),
        result("drift", status="too_short", note="no replica has a value"),
        result("T_rot", status="too_short", note="no replica has a value"),
        result("T_vib", value=500.0),
    ]
    runs = [make_metrics(results)]
    ours, paper = make_rows(runs, notes)
    stability = cell_of(ours, "stability", runs)
    assert (stability.text, stability.status, stability.extra) == ("≥ 5.00", "censored", "2 of 2 finished")
    assert stability.ran.replace("\N{NO-BREAK SPACE}", " ") == f"2 {TIMES} 5 ps"
    assert notes.texts[stability.notes[0] - 1] == "a lower bound"
    h_r = cell_of(ours, "h_r_mae", runs)
    assert (h_r.text, h_r.error, h_r.floor) == ("0.0830", "± 0.0040", "floor 0.0610")
    # Neither a number that is missing nor an observable that was not measured becomes a zero.
    assert (cell_of(ours, "drift", runs).text, cell_of(ours, "drift", runs).status) == (MISSING, "too short")
    assert (cell_of(ours, "force_mae", runs).text, cell_of(ours, "force_mae", runs).status) == (MISSING, "")
    printed = cell_of(paper, "stability", runs)
    assert (cell_of(paper, "force_mae", runs).text, printed.text, printed.error) == ("16.8", "247", "± 47")
    assert cell_of(paper, "T_vib", runs).text == MISSING
    assert ours.comparison == "data: other labels, fewer training frames; length: shorter, fewer runs"
    assert (paper.detail, printed.ran.replace("\N{NO-BREAK SPACE}", " ")) == ("Table 3", f"5 {TIMES} 300 ps")


def test_columns_are_what_the_runs_measured():
    water = make_metrics(
        [
            result("rdf_mae_O-O", value=0.1),
            result("coordination_O-O", value=4.5),
            result("rdf_mae_H-O", value=0.2),
            result("diffusivity", value=2.1),
            result("T_rot", status="too_short"),
        ]
    )
    water["run"]["criterion"] = "rdf"
    names = [column.name for column in columns_of([water])]
    assert names == [
        "force_mae",
        "stability",
        "rdf_mae_O-O",
        "rdf_mae_H-O",
        "diffusivity",
        "steps_per_second",
    ]
    both = [water, make_metrics([result("h_r_mae", value=0.1)])]
    assert [column.name for column in columns_of(both)][2:4] == ["h_r_mae", "rdf_mae_O-O"]
    assert all(len(row.cells) == 8 - 1 for row in make_rows(both, Notes()))


def test_what_was_asked_for_and_has_no_value_keeps_its_column():
    """A run too short for a diffusivity says so; a cell has no rotation, and the protocol of one has no column for it."""
    water = make_metrics([result("diffusivity", status="too_short"), result("T_rot", status="too_short")])
    water["run"]["criterion"] = "rdf"
    assert [column.name for column in columns_of([water])][2:-1] == ["diffusivity"]
    (row,) = [row for row in make_rows([water], Notes()) if row.kind == "ours"]
    assert cell_of(row, "diffusivity", [water]).status == "too short"


def test_replicas_have_the_columns_that_any_of_them_has_a_value_for():
    cell = make_metrics(replicas=[{"time_ps": 5.0, "temperature": 300.0, "T_rot": None}])
    molecule = make_metrics(replicas=[{"time_ps": 5.0, "temperature": 300.0, "T_rot": 290.0, "h_r_mae": 0.1}])
    assert [name for name, _, _ in replica_columns_of([cell])] == ["temperature"]
    assert [name for name, _, _ in replica_columns_of([cell, molecule])] == [
        "h_r_mae",
        "temperature",
        "T_rot",
    ]


def test_a_structure_of_ones_own_has_no_row_of_the_paper():
    own = make_metrics(provenance={"protocol": {"structure": "methanol.pdb"}})
    assert [row.kind for row in make_rows([own], Notes())] == ["ours"]
    assert [row.kind for row in make_rows([make_metrics()], Notes())] == ["ours", "paper"]


def test_a_model_that_the_paper_lacks_stands_alone():
    assert [row.kind for row in make_rows([make_metrics(architecture=None)], Notes())] == ["ours"]


def test_what_differs_from_the_paper():
    same = make_metrics(dataset="ethanol", n_train=9500, length_ps=300.0, replicas=[{"time_ps": 300.0}] * 5)
    assert compare_with_paper(same["run"], ETHANOL) == "data: same; length: same"
    fewer = make_metrics(dataset="ethanol", n_train=950, length_ps=300.0, replicas=[{"time_ps": 300.0}] * 5)
    assert compare_with_paper(fewer["run"], ETHANOL) == "data: fewer training frames; length: same"
    longer = make_metrics(dataset="ethanol", n_train=None, length_ps=600.0, replicas=[{"time_ps": 600.0}] * 6)
    assert compare_with_paper(longer["run"], ETHANOL) == (
        "data: other number of training frames; length: longer, more runs"
    )


def both_modes():
    """Water analyzed in both modes, and its temperature, which has none."""
    metrics = make_metrics(
        [result("rdf_mae_O-O", value=0.10), result("stability", status="censored", value=5.0)],
        mode="paper",
        system="water",
        dataset="water-10k",
        n_train=9500,
        protocol="water",
        criterion="rdf",
        length_ps=500.0,
        replicas=[{"time_ps": 500.0}] * 5,
    )
    metrics["measurements"] += [
        {
            "observable": "x",
            "mode": "mdsim",
            "results": [result("rdf_mae_O-O", value=0.09), result("stability", status="unstable", value=4.0)],
            "curves": {},
        },
        {
            "observable": "temperature",
            "mode": "standard",
            "results": [result("temperature", value=300.0)],
            "curves": {},
        },
    ]
    return metrics


def test_two_modes_are_two_columns_and_the_printed_numbers_stand_beside_those_of_the_program():
    runs = [both_modes()]
    columns = columns_of(runs)
    assert [(column.name, column.shown_mode) for column in columns] == [
        ("force_mae", ""),
        ("stability", "mode paper"),
        ("stability", "mode mdsim"),
        ("rdf_mae_O-O", "mode paper"),
        ("rdf_mae_O-O", "mode mdsim"),
        ("temperature", ""),
        ("steps_per_second", ""),
    ]
    ours, paper = make_rows(runs, Notes())
    assert [cell.text for cell in ours.cells[1:6]] == ["≥ 5.00", "4.00", "0.100", "0.0900", "300"]
    # Table 4 prints 232(59) ps and 0.63(0.04).
    assert [cell.text for cell in paper.cells[1:6]] == [MISSING, "232", MISSING, "0.63", MISSING]
    assert [cell.error for cell in paper.cells[1:5]] == ["", "± 26", "", "± 0.02"]
    assert ours.comparison == "data: same; length: same"


def test_what_is_alike_in_both_modes_is_one_column():
    metrics = both_modes()
    for i, floor in ((0, 0.0500001), (1, 0.05)):
        metrics["measurements"][i]["results"].append(result("h_r_mae", value=0.08, floor=floor))
    column = next(column for column in columns_of([metrics]) if column.name == "h_r_mae")
    assert (column.mode, column.shown_mode) == ("", "both modes")
    metrics["measurements"][1]["results"][-1]["value"] = 0.081
    assert [c.shown_mode for c in columns_of([metrics]) if c.name == "h_r_mae"] == [
        "mode paper",
        "mode mdsim",
    ]


def test_one_mode_is_one_column_and_is_named_where_it_is_not_the_default():
    metrics = both_modes()
    paper_only = metrics | {"measurements": [m for m in metrics["measurements"] if m["mode"] != "mdsim"]}
    assert {column.shown_mode for column in columns_of([paper_only])} == {""}
    notes = Notes()
    _, printed = make_rows([paper_only], notes)
    cell = cell_of(printed, "rdf_mae_O-O", [paper_only])
    assert (cell.text, [notes.texts[n - 1] for n in cell.notes]) == ("0.63", [BY_ITS_PROGRAM])
    mdsim_only = metrics | {"measurements": [m for m in metrics["measurements"] if m["mode"] != "paper"]}
    shown = {column.name: column.shown_mode for column in columns_of([mdsim_only])}
    assert (shown["rdf_mae_O-O"], shown["temperature"]) == ("mode mdsim", "")
    ours, _ = make_rows([mdsim_only], Notes())
    assert cell_of(ours, "rdf_mae_O-O", [mdsim_only]).text == "0.0900"


def test_a_run_of_one_mode_beside_one_of_both():
    both = both_modes()
    one = both | {"measurements": [m for m in both["measurements"] if m["mode"] != "mdsim"]}
    first, _, second = make_rows([both, one], Notes())
    assert [cell.text for cell in first.cells[3:5]] == ["0.100", "0.0900"]
    # The number of one mode is never printed under the other.
    assert [cell.text for cell in second.cells[3:5]] == ["0.100", MISSING]


def test_stability_by_bonds_stands_in_the_column_of_the_default_mode():
    both, bonds = both_modes(), make_metrics([result("stability", status="censored", value=7.0)])
    rows = [row for row in make_rows([both, bonds], Notes()) if row.kind == "ours"]
    assert [cell.text for cell in rows[1].cells[1:3]] == ["≥ 7.00", MISSING]


def test_systems_have_boards_of_their_own():
    own = make_metrics(protocol="dimer", provenance={"protocol": {"structure": "dimer.pdb"}})
    runs = [both_modes(), make_metrics([result("h_r_mae", value=0.1)]), own, both_modes()]
    boards = systems_of(runs)
    assert {title: len(of_system) for title, of_system in boards.items()} == {
        "Water": 2,
        "Ethanol": 1,
        "dimer": 1,
    }
    assert "h_r_mae" not in {column.name for column in columns_of(boards["Water"])}
    assert "rdf_mae_O-O" not in {column.name for column in columns_of(boards["Ethanol"])}


def test_errors_on_labels_are_shown_where_there_are_more_than_one():
    full = make_metrics(
        [
            result("force_mae", value=33.0),
            result("force_rmse", value=45.0, stderr=1.0),
            result("force_cosine", value=0.99),
            result("force_mae_H", value=20.0),
            result("energy_mae_per_atom", value=1.5),
        ]
    )
    columns = label_columns_of([full])
    assert [column.heading for column in columns] == [
        "Force MAE", "Force RMSE", "Force cosine", "Force MAE H", "Energy MAE, mean error removed",
    ]  # fmt: skip
    (row,) = plain_rows([full], columns, Notes())
    assert [cell.text for cell in row.cells] == ["33.0", "45.0", "0.990", "20.0", "1.50"]
    assert label_columns_of([make_metrics([result("force_mae", value=33.0)])]) == ()


def full_run(**changes):
    """Ethanol as long as its protocol: five replicas of 300 ps."""
    replicas = [{"time_ps": 300.0, "stable_ps": 300.0, "broke": False}] * 5
    provenance = {"protocol": {"replicas": 5}, "model": {"archive_sha256": "1"}}
    settings = {
        "length_ps": 300.0,
        "full_length_ps": 300.0,
        "n_replicas": 5,
        "replicas": replicas,
        "provenance": provenance,
    }
    return settings | changes


def test_runs_are_as_complete_as_what_is_still_unknown_of_them():
    def level(**changes):
        return completeness(make_metrics(**full_run(**changes))["run"])

    survivor, cut = (
        {"time_ps": 300.0, "stable_ps": 300.0, "broke": False},
        {"time_ps": 5.0, "stable_ps": 5.0, "broke": False},
    )
    broken = {"time_ps": 5.5, "stable_ps": 5.0, "broke": True}
    assert level() == FULL
    assert level(replicas=[survivor] * 4) == SHORT
    assert level(replicas=[survivor] * 4 + [cut]) == SHORT
    # Who broke has nothing more to tell, however short the run was asked to be.
    assert level(replicas=[broken] * 5, length_ps=10.0) == FULL
    assert level(replicas=[broken] * 4 + [cut], length_ps=10.0) == SHORT
    assert level(protocol="ethanol-langevin") == VARIANT
    assert level(protocol="ethanol-langevin", replicas=[cut]) == SHORT
    potential = {"model": {"archive_sha256": None, "source": "Duan et al."}, "protocol": {"replicas": 5}}
    assert level(architecture=None, provenance=potential) == CONTROL


def test_a_survivor_of_a_short_run_is_a_lower_bound_and_stands_apart():
    results = [
        result("stability", status="unstable", value=4.0, stderr=0.5),
        result("n_finished", value=1.0),
        result("force_mae", value=10.0),
        result("h_r_mae", value=0.2, stderr=0.01),
    ]
    replicas = [
        {"time_ps": 5.0, "stable_ps": 5.0, "broke": False},
        {"time_ps": 3.5, "stable_ps": 3.0, "broke": True},
    ]
    short = make_metrics(results, **full_run(length_ps=5.0, n_replicas=2, replicas=replicas))
    full = make_metrics([result("force_mae", value=20.0), result("stability", value=300.0)], **full_run())
    runs = [short, full]
    rows = make_rows(runs, Notes())
    # However accurate: first the full run, the paper's beneath it, then the short one without a second one.
    assert [(row.kind, row.level) for row in rows] == [("ours", FULL), ("paper", FULL), ("ours", SHORT)]
    cell = cell_of(rows[2], "stability", runs)
    assert (cell.text, cell.error, cell.status, cell.rank) == ("at least 4.00 ps", "", "censored", 4.0)
    assert cell.ran.replace("\N{NO-BREAK SPACE}", " ") == "8.5 ps of 2 replicas"
    assert cell_of(rows[2], "h_r_mae", runs).ran.replace("\N{NO-BREAK SPACE}", " ") == "8 ps of 2 replicas"
    assert cell_of(rows[2], "force_mae", runs).ran == ""
    assert (
        rows[2].simulated.replace("\N{NO-BREAK SPACE}", " ")
        == f"1 {TIMES} 5 ps, 1 {TIMES} 3.5 ps of 5 {TIMES} 300 ps"
    )


def test_what_was_not_run_is_a_row_with_its_command():
    runs = [make_metrics([result("force_mae", value=20.0)], **full_run())]
    rows = make_rows(runs, Notes(), gaps=True)
    gaps = [row for row in rows if row.kind == "gap"]
    assert [row.model for row in gaps] == [
        "deeppot-se", "dimenet", "forcenet", "gemnet-t", "gemnet-dt", "nequip",
    ]  # fmt: skip
    assert gaps[1].command == (
        "openmm-mlbench simulate ethanol --model ethanol/dimenet -o runs/ethanol-dimenet && "
        "openmm-mlbench analyze runs/ethanol-dimenet"
    )
    # The paper's row beside each of them too.
    after = [rows[rows.index(row) + 1] for row in gaps]
    assert all((row.kind, row.model) == ("paper", gap.model) for row, gap in zip(after, gaps, strict=True))


def test_models_without_shipped_weights_are_trained_first():
    command = command_for("water-10k", "water", "nequip", "nve")
    steps = [step.split()[1] for step in command.split(" && ")]
    assert steps == ["train", "export", "simulate", "analyze"]
    assert "simulate water-nve --model models/water-10k/nequip.pt" in command
    assert command.startswith("openmm-mlbench train nequip water-10k --recipe paper -o")
    for table in TABLES:
        words = command_for(table.dataset, table.system, "forcenet").split()
        if "train" not in words:
            continue
        size = words[words.index("--size") + 1] if "--size" in words else size_in_name(table.dataset)
        assert SIZES[size][0] == table.n_train, table.dataset


def test_known_flaws_of_the_paper_are_marked():
    runs = [
        make_metrics(
            [result("rdf_mae_O-O", value=0.1)], dataset="water-10k", system="water", protocol="water"
        )
    ]
    notes = Notes()
    _, paper = make_rows(runs, notes)
    assert "periodic neighbour search" in notes.texts[paper.flaws[0] - 1]
    assert "291 K" in notes.texts[cell_of(paper, "rdf_mae_O-O", runs).flaws[0] - 1]
    assert cell_of(paper, "force_mae", runs).flaws == ()


def test_equal_notes_are_one_footnote():
    notes = Notes()
    assert [notes.number(text) for text in ("a", "b", "a")] == [1, 2, 1]


def test_long_runs_are_not_written_as_powers_of_ten():
    assert format_lengths([10000.0, 10000.0]).replace("\N{NO-BREAK SPACE}", " ") == f"2 {TIMES} 10000 ps"


def angles(**spreads):
    """Curves of normal densities with (ours, the reference's) standard deviation, deg."""
    x = np.linspace(20.0, 200.0, 361)
    curves = {}
    for kind, (ours, reference) in spreads.items():
        for name, spread in ((kind, ours), (f"reference {kind}", reference)):
            curves[name] = {"x": x.tolist(), "y": np.exp(-0.5 * ((x - 110.0) / spread) ** 2).tolist()}
    return {"observable": "angles", "mode": "standard", "results": [], "curves": curves}


@pytest.mark.parametrize(
    ("spreads", "said"),
    [
        (
            {"N-C-H": (23.0, 4.0), "C-C-H": (9.0, 4.0)},
            "N-C-H angles have a standard deviation of 23.0 deg, 4.0 in",
        ),
        ({"N-C-H": (7.0, 4.0)}, ""),
        # Narrow ones are those of a short run.
        ({"N-C-H": (2.0, 8.0)}, ""),
    ],
)
def test_what_is_whole_by_its_bonds_and_not_by_its_angles(spreads, said):
    notes = Notes()
    metrics = make_metrics([result("stability", status="censored", value=5.0)])
    metrics["measurements"].append(angles(**spreads))
    cell = cell_of(make_rows([metrics], notes)[0], "stability", [metrics])
    assert [notes.texts[number - 1].startswith(said) for number in cell.odd] == [True] * bool(said)
    # Of what broke it says nothing new.
    broke = make_metrics(
        [result("stability", status="unstable", value=1.0)],
        replicas=[{"time_ps": 5.0, "stable_ps": 1.0, "broke": True}],
    )
    broke["measurements"].append(angles(**spreads))
    assert not cell_of(make_rows([broke], notes)[0], "stability", [broke]).odd


def test_angles_without_a_reference_or_without_frames_say_nothing():
    alone = angles(**{"N-C-H": (23.0, 4.0)})
    del alone["curves"]["reference N-C-H"]
    empty = angles(**{"N-C-H": (23.0, 4.0)})
    empty["curves"]["reference N-C-H"]["y"] = [0.0] * 361
    for measurement in (alone, empty):
        assert wide_angles({"measurements": [measurement]}) == ""


def test_analyze_says_so_as_well(monkeypatch, capsys):
    odd = {"modes": ["paper"], "measurements": [angles(**{"N-C-H": (23.0, 4.0)})]}
    monkeypatch.setattr("openmm_mlbench.workflow.measure", lambda *_, **__: odd)
    cli.analyze([Path("run")])
    assert "run: N-C-H angles have a standard deviation of 23.0 deg" in capsys.readouterr().out
