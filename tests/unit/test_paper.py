"""The paper's figures: typed once more from its tables, and the conversion of its errors."""

import math

import pytest

from openmm_mlbench.paper import (
    FLAWS,
    MODELS,
    TABLES,
    known_flaws,
    paper_parameters,
    paper_results,
    paper_row,
    stderr_from_sd,
)

# Typed apart from the module: (data set, model) -> result name -> printed value and SD.
PRINTED = {
    ("aspirin", "forcenet"): {"force_mae": (22.1, None), "stability": (182, 144), "h_r_mae": (0.56, 0.15)},
    ("ethanol", "schnet"): {
        "force_mae": (16.8, None), "stability": (247, 106), "h_r_mae": (0.21, 0.11), "steps_per_second": (112.6, None),
    },
    ("ethanol", "gemnet-t"): {"force_mae": (2.1, None), "stability": (169, 98), "h_r_mae": (0.10, 0.02)},
    ("naphthalene", "gemnet-dt"): {"force_mae": (1.9, None), "stability": (25, 10), "h_r_mae": (0.12, 0.01)},
    ("salicylic-acid", "dimenet"): {"force_mae": (9.6, None), "stability": (73, 82), "h_r_mae": (0.06, 0.02)},
    ("water-1k", "nequip"): {"rdf_mae_H-O": (0.26, 0.07), "diffusivity_mae": (0.37, None), "stability": (500, 0)},
    ("water-10k", "deeppot-se"): {"rdf_mae_O-O": (0.07, 0.01), "diffusivity_mae": (0.04, None), "force_mae": (5.8, None)},
    ("water-90k", "forcenet"): {"rdf_mae_H-H": (0.82, 0.26), "stability": (9, 12), "force_mae": (8.6, None)},
    ("alanine-dipeptide-explicit", "nequip"): {"F_phi_mae": (108, 2), "n_finished": (5, None), "stability": (4168, 1860)},
    ("lips", "gemnet-t"): {"rdf_mae_all": (0.04, 0.0), "diffusivity_mae": (0.24, None), "steps_per_second": (16.9, None)},
}  # fmt: skip
MILLION_PARAMETERS = [1.04, 0.12, 2.1, 11.37, 1.89, 2.31, 1.05]


def row_of(dataset, model):
    return paper_row(dataset, "", model)


@pytest.mark.parametrize("key", PRINTED, ids="/".join)
def test_rows_are_the_printed_ones(key):
    row = row_of(*key)
    for name, printed in PRINTED[key].items():
        assert (row.printed[name].value, row.printed[name].sd) == printed, name


def test_every_table_has_a_cell_for_each_model():
    for table in TABLES:
        for name, text in table.printed.items():
            assert len(text.split()) == len(MODELS) == 7, (table.name, name)
        for model in MODELS:
            paper_results(row_of(table.dataset, model))
    assert [paper_parameters(model) for model in MODELS] == pytest.approx(
        [1e6 * n for n in MILLION_PARAMETERS]
    )


def test_standard_errors_are_over_the_simulations():
    assert stderr_from_sd(106) == pytest.approx(47.405, abs=1e-3)
    results = paper_results(row_of("ethanol", "schnet"))
    assert results["stability"].stderr == pytest.approx(106 / math.sqrt(5))
    assert results["h_r_mae"].stderr == pytest.approx(0.11 / math.sqrt(5))
    assert (results["stability"].status, results["force_mae"].stderr) == ("unstable", None)
    six = paper_results(row_of("alanine-dipeptide-explicit", "nequip"))
    assert six["stability"].stderr == pytest.approx(1860 / math.sqrt(6))


def test_known_flaws_are_told_of_the_numbers_they_concern():
    alanine, water = row_of("alanine-dipeptide-explicit", "nequip"), row_of("water-10k", "schnet")
    assert "no target" in known_flaws(alanine, "F_phi_mae")[0]
    assert "2 fs" in known_flaws(alanine, "stability")[0]
    assert known_flaws(alanine) == known_flaws(alanine, "force_mae") == ()
    assert "periodic neighbour search" in known_flaws(water)[0]
    assert "291 K" in known_flaws(water, "rdf_mae_O-O")[0]
    # Neither NequIP nor DeepPot-SE ran through that search, and molecules have no period.
    assert known_flaws(row_of("water-10k", "nequip")) == known_flaws(row_of("ethanol", "schnet")) == ()


def test_flaws_name_tables_models_and_results_that_there_are():
    names = {name for table in TABLES for name in table.printed}
    for flaw in FLAWS:
        assert set(flaw.tables) <= {table.name for table in TABLES}
        assert set(flaw.models) <= set(MODELS)
        assert set(flaw.results) <= names


def test_printed_zeros_are_no_errors():
    results = paper_results(row_of("ethanol", "deeppot-se"))
    assert (results["stability"].status, results["stability"].stderr) == ("censored", None)
    assert results["h_r_mae"].stderr is None
    assert "below 0.005: standard error below 0.0022" in results["h_r_mae"].note
    # Five simulations that broke within the first half picosecond are no survivors.
    assert paper_results(row_of("water-1k", "gemnet-dt"))["stability"].status == "unstable"


def test_what_the_paper_lacks():
    assert row_of("ethanol", "mace") is None
    assert paper_row("unobtainium", "unobtainium", "schnet") is None
    assert paper_parameters("mace") is None
    # Nothing was printed for what could not be measured.
    assert "diffusivity_mae" not in row_of("water-10k", "dimenet").printed


def test_other_labels_of_a_system_stand_beside_its_table():
    row = paper_row("ethanol-gfn2", "ethanol", "schnet")
    assert row.table.dataset == "ethanol"
    assert paper_row("water-spcfw-1k", "water", "schnet").table.name == "Table 8"


# Every printed value, and every printed SD, added up in the paper's own tables.
SUMS = {
    "aspirin": (1384.31, 377.22),
    "ethanol": (2159.88, 214.21),
    "naphthalene": (1508.59, 191.03),
    "salicylic-acid": (1626.05, 215.09),
    "water-1k": (888.94, 193.63),
    "water-10k": (1392.83, 230.48),
    "water-90k": (1410.88, 112.21),
    "alanine-dipeptide-explicit": (6374.3, 1893.0),
    "lips": (629.03, 15.25),
}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.dataset)
def test_all_322_numbers_add_up(table):
    printed = [row_of(table.dataset, model).printed.values() for model in MODELS]
    found = [(one.value, one.sd or 0.0) for row in printed for one in row]
    assert tuple(round(sum(column), 2) for column in zip(*found, strict=True)) == SUMS[table.dataset]
    assert sum(len(text.split()) for one in TABLES for text in one.printed.values()) == 322
