"""Figures printed in the paper, as data, for the rows beside our own.

Source: Fu et al., "Forces are not Enough: Benchmark and Critical Evaluation for
Machine Learning Force Fields with Molecular Simulations", Trans. Mach. Learn.
Res. (2023): Tables 2 to 6, 8 and 9.  It prints standard deviations over its
simulations; they are turned into standard errors, SD / sqrt(n), before they
stand beside ours.
"""

import re
from dataclasses import dataclass

from openmm_mlbench.results import Result

HARDWARE = "NVIDIA V100"
# Digits after the point, as printed.
DECIMALS = {
    "force_mae": 1,
    "stability": 0,
    "steps_per_second": 1,
    "F_phi_mae": 0,
    "F_psi_mae": 0,
    "n_finished": 0,
}
USUAL_DECIMALS = 2
BY_ITS_PROGRAM = "made by the paper's program, whose definitions are mode mdsim"
STDERR_TEXT = (
    "Standard errors of the paper's rows are its printed standard deviations over its simulations / √n (n = 5; 6 for "
    "alanine dipeptide); its speeds are those of other hardware."
)
# In the order of the tables' columns; the numbers of parameters are those of Table 2, on MD17.
MODELS = {
    "deeppot-se": ("DeepPot-SE", 1_040_000),
    "schnet": ("SchNet", 120_000),
    "dimenet": ("DimeNet", 2_100_000),
    "forcenet": ("ForceNet", 11_370_000),
    "gemnet-t": ("GemNet-T", 1_890_000),
    "gemnet-dt": ("GemNet-dT", 2_310_000),
    "nequip": ("NequIP", 1_050_000),
}
_UNITS = {
    "force_mae": "meV/A",
    "stability": "ps",
    "n_finished": "replicas",
    "h_r_mae": "1",
    "rdf_mae_O-O": "A",
    "rdf_mae_H-H": "A",
    "rdf_mae_H-O": "A",
    "rdf_mae_all": "A",
    "diffusivity_mae": "1e-9 m2/s",
    "F_phi_mae": "kJ/mol rad",
    "F_psi_mae": "kJ/mol rad",
    "steps_per_second": "1/s",
}


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """Where a row stands and what was run for it.

    Args:
        name: "Table 3".
        dataset: name of the data set whose labels are the paper's.
        system: folder in systems/.
        n_train: training frames, without those for validation.
        data: one line about them.
        length_ps: of each simulation.
        n_simulations: how many.
        printed: result name -> one printed cell for each model, "value" or "value(SD)", "-" where there is none.
    """

    name: str
    dataset: str
    system: str
    n_train: int
    data: str
    length_ps: float
    n_simulations: int
    printed: dict[str, str]


def _md17(system: str, **printed: str) -> PaperTable:
    return PaperTable(
        name="Table 3",
        dataset=system,
        system=system,
        n_train=9500,
        data="MD17 (original labels), 9,500 training frames",
        length_ps=300.0,
        n_simulations=5,
        printed=printed,
    )


def _water(name: str, dataset: str, n_train: int, printed: dict[str, str]) -> PaperTable:
    return PaperTable(
        name=name,
        dataset=dataset,
        system="water",
        n_train=n_train,
        data=f"flexible SPC water, {n_train:,} training frames",
        length_ps=500.0,
        n_simulations=5,
        printed=printed,
    )


TABLES = (
    _md17(
        "aspirin",
        force_mae="21.0 35.6 10.0 22.1 3.3 5.1 2.3",
        stability="9(15) 26(23) 54(12) 182(144) 72(50) 192(132) 300(0)",
        h_r_mae="0.65(0.47) 0.36(0.57) 0.04(0.00) 0.56(0.15) 0.04(0.02) 0.04(0.01) 0.02(0.00)",
        steps_per_second="88.0 108.9 20.6 137.3 28.2 56.8 8.4",
    ),
    _md17(
        "ethanol",
        force_mae="8.9 16.8 4.2 14.9 2.1 1.7 1.3",
        stability="300(0) 247(106) 26(10) 300(0) 169(98) 300(0) 300(0)",
        h_r_mae="0.09(0.00) 0.21(0.11) 0.15(0.03) 0.86(0.05) 0.10(0.02) 0.09(0.00) 0.08(0.00)",
        steps_per_second="101.0 112.6 21.4 141.1 27.1 54.3 8.9",
    ),
    _md17(
        "naphthalene",
        force_mae="13.4 22.5 5.7 9.9 1.5 1.9 1.1",
        stability="246(109) 18(2) 85(68) 300(0) 8(2) 25(10) 300(0)",
        h_r_mae="0.11(0.00) 0.09(0.00) 0.10(0.01) 1.02(0.00) 0.13(0.00) 0.12(0.01) 0.12(0.01)",
        steps_per_second="109.3 110.9 19.1 140.2 27.7 53.5 8.2",
    ),
    _md17(
        "salicylic-acid",
        force_mae="14.9 26.3 9.6 12.8 4.0 4.0 1.6",
        stability="300(0) 300(0) 73(82) 1(0) 26(24) 94(109) 300(0)",
        h_r_mae="0.03(0.00) 0.03(0.00) 0.06(0.02) 0.35(0.00) 0.08(0.04) 0.07(0.03) 0.03(0.00)",
        steps_per_second="94.6 111.7 19.4 143.2 28.5 52.4 8.4",
    ),
    _water(
        "Table 8",
        "water-1k",
        950,
        {
            "force_mae": "6.7 13.1 3.5 13.6 5.0 29.2 1.4",
            "stability": "108(117) 175(56) 4(4) 13(7) 6(7) 0(0) 500(0)",
            "rdf_mae_O-O": "0.17(0.10) 0.52(0.05) 0.46(0.22) 0.86(0.09) 0.62(0.48) - 0.07(0.02)",
            "rdf_mae_H-H": "0.13(0.09) 0.24(0.02) 0.33(0.15) 0.56(0.04) 0.35(0.21) - 0.07(0.02)",
            "rdf_mae_H-O": "0.28(0.15) 0.54(0.01) 0.43(0.17) 1.44(0.09) 0.71(0.65) - 0.26(0.07)",
            "diffusivity_mae": "0.24 1.79 - - - - 0.37",
        },
    ),
    _water(
        "Table 4",
        "water-10k",
        9500,
        {
            "force_mae": "5.8 9.5 1.4 10.9 0.7 1.3 1.5",
            "stability": "247(147) 232(59) 30(10) 7(3) 25(7) 7(3) 500(0)",
            "rdf_mae_O-O": "0.07(0.01) 0.63(0.04) 0.27(0.15) 0.79(0.03) 0.22(0.05) 0.42(0.22) 0.06(0.02)",
            "rdf_mae_H-H": "0.06(0.02) 0.30(0.02) 0.18(0.08) 0.55(0.01) 0.16(0.03) 0.35(0.25) 0.05(0.01)",
            "rdf_mae_H-O": "0.19(0.05) 0.57(0.04) 0.21(0.04) 1.34(0.03) 0.20(0.04) 0.42(0.27) 0.27(0.07)",
            "diffusivity_mae": "0.04 1.90 - - - - 0.18",
            "steps_per_second": "91.0 78.9 17.9 67.6 11.3 33.7 3.9",
        },
    ),
    _water(
        "Table 9",
        "water-90k",
        85500,
        {
            "force_mae": "5.9 8.4 1.7 8.6 0.7 1.1 1.4",
            "stability": "500(0) 299(70) 36(9) 9(12) 20(9) 8(10) 500(0)",
            "rdf_mae_O-O": "0.07(0.02) 0.67(0.03) 0.21(0.03) 1.31(0.49) 0.35(0.23) 0.20(0.01) 0.06(0.01)",
            "rdf_mae_H-H": "0.05(0.01) 0.31(0.02) 0.14(0.01) 0.82(0.26) 0.25(0.19) 0.16(0.01) 0.04(0.01)",
            "rdf_mae_H-O": "0.29(0.08) 0.67(0.04) 0.18(0.02) 2.05(0.60) 0.24(0.06) 0.26(0.02) 0.25(0.06)",
            "diffusivity_mae": "0.35 1.97 - - - - 0.18",
        },
    ),
    PaperTable(
        name="Table 5",
        dataset="alanine-dipeptide-explicit",
        system="alanine-dipeptide",
        n_train=38_000,
        data="AMBER-03 in explicit water, 38,000 training frames",
        length_ps=5000.0,
        n_simulations=6,
        printed={
            "force_mae": "272.1 217.0 239.0 284.7 233.5 219.7 215.6",
            "n_finished": "0 0 0 0 0 0 5",
            "stability": "0(0) 0(0) 0(0) 0(0) 18(27) 0(0) 4168(1860)",
            "F_phi_mae": "- - - - - - 108(2)",
            "F_psi_mae": "- - - - - - 126(4)",
            "steps_per_second": "54.3 42.4 12.1 99.1 15.0 36.5 8.3",
        },
    ),
    PaperTable(
        name="Table 6",
        dataset="lips",
        system="lips",
        n_train=19_000,
        data="LiPS (PBE), 19,000 training frames",
        length_ps=50.0,
        n_simulations=5,
        printed={
            "force_mae": "40.5 28.8 3.2 12.8 1.3 1.4 3.7",
            "stability": "4(3) 50(0) 48(4) 26(8) 50(0) 50(0) 50(0)",
            "rdf_mae_all": "0.27(0.15) 0.04(0.00) 0.05(0.01) 0.51(0.08) 0.04(0.00) 0.04(0.00) 0.04(0.01)",
            "diffusivity_mae": "- 0.38 0.30 - 0.24 0.28 0.34",
            "steps_per_second": "66.1 35.2 14.8 72.1 16.9 43.5 8.2",
        },
    ),
)


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """What is known to be wrong with printed numbers.

    Args:
        text: what, for a footnote.
        tables: names of the tables concerned; all where empty.
        models: likewise.
        results: likewise; where empty the whole row.
    """

    text: str
    tables: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


_WATER = ("Table 8", "Table 4", "Table 9")
_OPEN_CATALYST = ("schnet", "dimenet", "forcenet", "gemnet-t", "gemnet-dt")
# Read in the authors' program, or recomputed from the files they publish.
FLAWS = (
    Flaw(
        text="does not come out of the authors' own files (75.2 and 88.0 do), and their hills are in other units: no target",
        tables=("Table 5",),
        results=("F_phi_mae", "F_psi_mae"),
    ),
    Flaw(
        text=(
            "its runs move hydrogens freely at 2 fs, with labels that were made under rigid X-H bonds and know no force "
            "along them: an early end may be the protocol's fault and not the model's"
        ),
        tables=("Table 5",),
        results=("stability", "n_finished"),
    ),
    Flaw(
        text=(
            "made before the periodic neighbour search of its program was mended in 2024 (it did not wrap positions), and "
            "with at most 50 neighbours per atom, fewer than 5 A of water hold: indicative only"
        ),
        tables=(*_WATER, "Table 6"),
        models=_OPEN_CATALYST,
    ),
    Flaw(
        text="its Nose-Hoover integrator lacks a factor of 2: its published water runs are at 291 K instead of 300 K",
        tables=_WATER,
        results=("rdf_mae_O-O", "rdf_mae_H-H", "rdf_mae_H-O", "diffusivity_mae"),
    ),
    Flaw(
        text="its program leaves the positions out of the gradient of the angles: the forces are not those of the energy",
        tables=(*_WATER, "Table 5", "Table 6"),
        models=("dimenet",),
    ),
)
_CELL = re.compile(r"(?P<value>[\d.]+)(\((?P<sd>[\d.]+)\))?")


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One number as printed; ``sd`` is None where the paper gives none, ``decimals`` those of the SD."""

    value: float
    sd: float | None
    sd_decimals: int


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """What one table prints about one model."""

    model: str
    label: str
    n_parameters: int
    table: PaperTable
    printed: dict[str, Printed]


def paper_table(dataset: str, system: str) -> PaperTable | None:
    """The table of a data set, or the first of its system, whose labels then differ; None where there is none."""
    own = [table for table in TABLES if table.dataset == dataset]
    return next(iter([*own, *(table for table in TABLES if table.system == system)]), None)


def paper_row(dataset: str, system: str, model: str) -> PaperRow | None:
    """What the paper prints for an architecture on a data set, or on its system with other labels.

    Args:
        dataset: name of the data set that was trained on.
        system: name of the simulated system.
        model: architecture.
    """
    table = paper_table(dataset, system)
    if table is None or model not in MODELS:
        return None
    column = list(MODELS).index(model)
    cells = {name: text.split()[column] for name, text in table.printed.items()}
    label, n_parameters = MODELS[model]
    return PaperRow(
        model=model,
        label=label,
        n_parameters=n_parameters,
        table=table,
        printed={name: _printed(cell) for name, cell in cells.items() if cell != "-"},
    )


def _printed(cell: str) -> Printed:
    found = _CELL.fullmatch(cell)
    assert found is not None, cell
    sd = found["sd"]
    decimals = len(sd.partition(".")[2]) if sd else 0
    return Printed(value=float(found["value"]), sd=None if sd is None else float(sd), sd_decimals=decimals)


def known_flaws(row: PaperRow, result: str | None = None) -> tuple[str, ...]:
    """What is known to be wrong with one printed number of a row, or with the whole row where None."""
    return tuple(
        flaw.text
        for flaw in FLAWS
        if (not flaw.tables or row.table.name in flaw.tables)
        and (not flaw.models or row.model in flaw.models)
        and (result in flaw.results if result is not None else not flaw.results)
    )


def paper_parameters(model: str) -> int | None:
    """Number of parameters on MD17 (Table 2), or None for a model that the paper does not have."""
    return MODELS[model][1] if model in MODELS else None


def stderr_from_sd(sd: float, n_simulations: int = 5) -> float:
    """Standard error of the mean over the paper's simulations."""
    return float(sd / n_simulations**0.5)


def paper_results(row: PaperRow) -> dict[str, Result]:
    """The row in the shape of our own results, standard deviations turned into standard errors."""
    return {name: _result(name, printed, row.table) for name, printed in row.printed.items()}


def _result(name: str, printed: Printed, table: PaperTable) -> Result:
    n, stderr, note, status = table.n_simulations, None, "printed without an error", "ok"
    if name == "stability":
        status = "censored" if printed.value >= table.length_ps and not printed.sd else "unstable"
    if printed.sd is not None:
        stderr, note = stderr_from_sd(printed.sd, n), ""
        if printed.sd == 0:
            # A printed zero is a rounded one.
            below = 0.5 * 10.0**-printed.sd_decimals
            stderr = None
            note = f"SD printed as {printed.sd:.{printed.sd_decimals}f}, below {below:g}: standard error below {stderr_from_sd(below, n):.2g}"
    if status == "censored":
        note = f"no simulation of {n} broke: a lower bound, so without standard error"
    if name == "steps_per_second":
        note = f"on one {HARDWARE}; printed without an error"
    return Result(
        name=name,
        status=status,
        unit=_UNITS[name],
        value=printed.value,
        stderr=stderr,
        n_replicas=None if printed.sd is None else n,
        note=note,
    )
