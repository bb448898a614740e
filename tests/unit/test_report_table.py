"""How numbers, lengths and rows of the report are printed."""

import pytest

from openmm_mlbench.paper import paper_table
from openmm_mlbench.report.table import (
    MISSING,
    TIMES,
    Notes,
    columns_of,
    compare_with_paper,
    format_lengths,
    format_number,
    make_rows,
    replica_columns_of,
)


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


def make_metrics(results=(), **changes):
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
        "measurements": [{"observable": "x", "results": list(results), "curves": {}}],
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
    return row.cells[[column for column, _, _ in columns_of(runs)].index(name)]


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
    assert notes.texts[stability.notes[0] - 1] == "a lower bound"
    assert (cell_of(ours, "h_r_mae", runs).text, cell_of(ours, "h_r_mae", runs).floor) == (
        "0.0830 ± 0.0040",
        "floor 0.0610",
    )
    # Neither a number that is missing nor an observable that was not measured becomes a zero.
    assert (cell_of(ours, "drift", runs).text, cell_of(ours, "drift", runs).status) == (MISSING, "too short")
    assert (cell_of(ours, "force_mae", runs).text, cell_of(ours, "force_mae", runs).status) == (MISSING, "")
    assert (cell_of(paper, "force_mae", runs).text, cell_of(paper, "stability", runs).text) == (
        "16.8",
        "247 ± 47",
    )
    assert cell_of(paper, "T_vib", runs).text == MISSING
    assert paper.comparison == "labels, amount of data, length, hardware"


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
    names = [name for name, _, _ in columns_of([water])]
    assert names == [
        "force_mae",
        "stability",
        "rdf_mae_O-O",
        "rdf_mae_H-O",
        "diffusivity",
        "steps_per_second",
    ]
    both = [water, make_metrics([result("h_r_mae", value=0.1)])]
    assert [name for name, _, _ in columns_of(both)][2:4] == ["h_r_mae", "rdf_mae_O-O"]
    assert all(len(row.cells) == 8 - 1 for row in make_rows(both, Notes()))


def test_what_was_asked_for_and_has_no_value_keeps_its_column():
    """A run too short for a diffusivity says so; a cell has no rotation, and the protocol of one has no column for it."""
    water = make_metrics([result("diffusivity", status="too_short"), result("T_rot", status="too_short")])
    water["run"]["criterion"] = "rdf"
    assert [name for name, _, _ in columns_of([water])][2:-1] == ["diffusivity"]
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
    assert compare_with_paper(same["run"], ETHANOL) == "hardware"
    fewer = make_metrics(dataset="ethanol", n_train=950, length_ps=300.0, replicas=[{"time_ps": 300.0}] * 5)
    assert compare_with_paper(fewer["run"], ETHANOL) == "amount of data, hardware"


def test_equal_notes_are_one_footnote():
    notes = Notes()
    assert [notes.number(text) for text in ("a", "b", "a")] == [1, 2, 1]


def test_long_runs_are_not_written_as_powers_of_ten():
    assert format_lengths([10000.0, 10000.0]).replace("\N{NO-BREAK SPACE}", " ") == f"2 {TIMES} 10000 ps"
