"""The paper's figures: typed once more from its table, and the conversion of its errors."""

import math

import pytest

from openmm_mlbench.paper import (
    N_SIMULATIONS,
    paper_parameters,
    paper_results,
    paper_row,
    stderr_from_sd,
)

# Column by column from Table 3 (Ethanol) and Table 2, typed apart from the module.
MODELS = ["deeppot-se", "schnet", "dimenet", "forcenet", "gemnet-t", "gemnet-dt", "nequip"]
FORCE = [8.9, 16.8, 4.2, 14.9, 2.1, 1.7, 1.3]
STABILITY = ["300 (0)", "247 (106)", "26 (10)", "300 (0)", "169 (98)", "300 (0)", "300 (0)"]
H_R = [
    "0.09 (0.00)",
    "0.21 (0.11)",
    "0.15 (0.03)",
    "0.86 (0.05)",
    "0.10 (0.02)",
    "0.09 (0.00)",
    "0.08 (0.00)",
]
FPS = [101.0, 112.6, 21.4, 141.1, 27.1, 54.3, 8.9]
MILLION_PARAMETERS = [1.04, 0.12, 2.1, 11.37, 1.89, 2.31, 1.05]


@pytest.mark.parametrize("column", range(7))
def test_rows_are_the_printed_ones(column):
    row = paper_row("ethanol", MODELS[column])
    assert row.force_mae_mev_A == FORCE[column]
    assert f"{row.stability_ps} ({row.stability_sd_ps})" == STABILITY[column]
    assert f"{row.h_r_mae:.2f} ({row.h_r_sd:.2f})" == H_R[column]
    assert row.frames_per_second == FPS[column]
    assert paper_parameters(MODELS[column]) == pytest.approx(1e6 * MILLION_PARAMETERS[column])


def test_standard_errors_are_over_five_simulations():
    assert N_SIMULATIONS == 5
    assert stderr_from_sd(106) == pytest.approx(47.405, abs=1e-3)
    results = paper_results(paper_row("ethanol", "schnet"))
    assert results["stability"].stderr == pytest.approx(106 / math.sqrt(5))
    assert results["h_r_mae"].stderr == pytest.approx(0.11 / math.sqrt(5))
    assert (results["stability"].status, results["force_mae"].stderr) == ("unstable", None)


def test_printed_zeros_are_no_errors():
    results = paper_results(paper_row("ethanol", "deeppot-se"))
    assert (results["stability"].status, results["stability"].stderr) == ("censored", None)
    assert results["h_r_mae"].stderr is None
    assert "below 0.0023" in results["h_r_mae"].note
    assert 0.0022 < 0.005 / math.sqrt(5) < 0.0023


def test_what_the_paper_lacks():
    assert paper_row("ethanol", "mace") is None
    assert paper_row("unobtainium", "schnet") is None
    assert paper_parameters("mace") is None
