"""Figures printed in the paper, as data, for the row beside our own.

Source: Fu et al., "Forces are not Enough: Benchmark and Critical Evaluation for
Machine Learning Force Fields with Molecular Simulations", Trans. Mach. Learn.
Res. (2023): Table 2 (parameter counts on MD17) and Table 3 (ethanol).
Table 3 prints standard deviations over five simulations; they are turned into
standard errors, SD / sqrt(5), before they stand beside ours.
"""

from dataclasses import dataclass

from openmm_mlbench.results import Result

N_SIMULATIONS = 5
LENGTH_PS = 300.0
N_TRAIN = 9500
DATASET = "ethanol"
DATASET_TEXT = "MD17 (original labels), 9,500 training frames"
HARDWARE = "NVIDIA V100"
TABLE_3 = "Table 3"
# Digits after the point, as printed.
DECIMALS = {"force_mae": 1, "stability": 0, "h_r_mae": 2, "steps_per_second": 1}
STDERR_TEXT = (
    "Standard errors of the paper's row are its printed standard deviations over 5 simulations / √5."
)


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """Table 3, ethanol, as printed: values and standard deviations over five simulations of 300 ps.

    ``h_r_sd`` is printed with two decimals, ``stability_sd_ps`` with none: a
    printed zero means below 0.005 and below 0.5 ps.
    """

    model: str
    label: str
    force_mae_mev_A: float
    stability_ps: float
    stability_sd_ps: float
    h_r_mae: float
    h_r_sd: float
    frames_per_second: float
    n_parameters: int


# One row per model: Table 3 as printed, then the count of Table 2.
_ETHANOL = {
    row.model: row
    for row in (
        PaperRow(
            model="deeppot-se",
            label="DeepPot-SE",
            force_mae_mev_A=8.9,
            stability_ps=300,
            stability_sd_ps=0,
            h_r_mae=0.09,
            h_r_sd=0.00,
            frames_per_second=101.0,
            n_parameters=1_040_000,
        ),
        PaperRow(
            model="schnet",
            label="SchNet",
            force_mae_mev_A=16.8,
            stability_ps=247,
            stability_sd_ps=106,
            h_r_mae=0.21,
            h_r_sd=0.11,
            frames_per_second=112.6,
            n_parameters=120_000,
        ),
        PaperRow(
            model="dimenet",
            label="DimeNet",
            force_mae_mev_A=4.2,
            stability_ps=26,
            stability_sd_ps=10,
            h_r_mae=0.15,
            h_r_sd=0.03,
            frames_per_second=21.4,
            n_parameters=2_100_000,
        ),
        PaperRow(
            model="forcenet",
            label="ForceNet",
            force_mae_mev_A=14.9,
            stability_ps=300,
            stability_sd_ps=0,
            h_r_mae=0.86,
            h_r_sd=0.05,
            frames_per_second=141.1,
            n_parameters=11_370_000,
        ),
        PaperRow(
            model="gemnet-t",
            label="GemNet-T",
            force_mae_mev_A=2.1,
            stability_ps=169,
            stability_sd_ps=98,
            h_r_mae=0.10,
            h_r_sd=0.02,
            frames_per_second=27.1,
            n_parameters=1_890_000,
        ),
        PaperRow(
            model="gemnet-dt",
            label="GemNet-dT",
            force_mae_mev_A=1.7,
            stability_ps=300,
            stability_sd_ps=0,
            h_r_mae=0.09,
            h_r_sd=0.00,
            frames_per_second=54.3,
            n_parameters=2_310_000,
        ),
        PaperRow(
            model="nequip",
            label="NequIP",
            force_mae_mev_A=1.3,
            stability_ps=300,
            stability_sd_ps=0,
            h_r_mae=0.08,
            h_r_sd=0.00,
            frames_per_second=8.9,
            n_parameters=1_050_000,
        ),
    )
}
_TABLE_3 = {"ethanol": _ETHANOL}


def paper_row(system: str, model: str) -> PaperRow | None:
    """Table 3's figures for a system and an architecture, or None where the paper has none."""
    return _TABLE_3.get(system, {}).get(model)


def paper_parameters(model: str) -> int | None:
    """Number of parameters on MD17 (Table 2), or None for a model that the paper does not have."""
    row = _ETHANOL.get(model)
    return row.n_parameters if row else None


def stderr_from_sd(sd: float) -> float:
    """Standard error of the mean over the paper's five simulations."""
    return float(sd / N_SIMULATIONS**0.5)


def paper_results(row: PaperRow) -> dict[str, Result]:
    """The row in the shape of our own results, standard deviations turned into standard errors."""
    outlived = row.stability_sd_ps == 0 and row.stability_ps >= LENGTH_PS
    h_r_known = row.h_r_sd > 0
    return {
        "force_mae": Result(
            name="force_mae",
            status="ok",
            unit="meV/A",
            value=row.force_mae_mev_A,
            note="printed without an error",
        ),
        "stability": Result(
            name="stability",
            status="censored" if outlived else "unstable",
            unit="ps",
            value=float(row.stability_ps),
            stderr=None if outlived else stderr_from_sd(row.stability_sd_ps),
            n_replicas=N_SIMULATIONS,
            note="" if not outlived else "no simulation of 5 broke: a lower bound, so without standard error",
        ),
        "h_r_mae": Result(
            name="h_r_mae",
            status="ok",
            unit="1",
            value=row.h_r_mae,
            stderr=stderr_from_sd(row.h_r_sd) if h_r_known else None,
            n_replicas=N_SIMULATIONS,
            note="" if h_r_known else "SD printed as 0.00, below 0.005: standard error below 0.0023",
        ),
        "steps_per_second": Result(
            name="steps_per_second",
            status="ok",
            unit="1/s",
            value=row.frames_per_second,
            note=f"on one {HARDWARE}; printed without an error",
        ),
    }
