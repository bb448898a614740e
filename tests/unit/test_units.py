"""Every conversion factor against OpenMM's own."""

import pytest
from openmm import unit

from openmm_mlbench import units

MOLE = unit.AVOGADRO_CONSTANT_NA


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.ANGSTROM_PER_NM, (1 * unit.nanometer).value_in_unit(unit.angstrom)),
        (units.NM_PER_ANGSTROM, (1 * unit.angstrom).value_in_unit(unit.nanometer)),
        (units.FS_PER_PS, (1 * unit.picosecond).value_in_unit(unit.femtosecond)),
        (units.PS_PER_FS, (1 * unit.femtosecond).value_in_unit(unit.picosecond)),
        (units.KJMOL_PER_KCALMOL, (1 * unit.kilocalorie_per_mole).value_in_unit(unit.kilojoule_per_mole)),
        (units.KJMOL_PER_EV, (1 * unit.elementary_charge * unit.volt * MOLE).value_in_unit(unit.kilojoule_per_mole)),
        (units.BOLTZMANN_KJMOL_K, unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)),
        (units.EV_PER_HARTREE * units.KJMOL_PER_EV, (1 * unit.hartree * MOLE).value_in_unit(unit.kilojoule_per_mole)),
        (units.ANGSTROM_PER_BOHR, (1 * unit.bohr).value_in_unit(unit.angstrom)),
    ],
)  # fmt: skip
def test_factor_is_openmms(ours, theirs):
    assert ours == pytest.approx(theirs, rel=1e-7)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (units.EV_PER_KJMOL * units.KJMOL_PER_EV, 1.0),
        (units.KJMOL_NM_PER_EV_ANGSTROM / units.KJMOL_PER_EV, 10.0),
        (units.BOLTZMANN_EV_K * units.KJMOL_PER_EV / units.BOLTZMANN_KJMOL_K, 1.0),
        (units.EV_PER_KCALMOL * units.KJMOL_PER_EV, 4.184),
        (units.MEV_PER_EV, 1000.0),
    ],
)
def test_factors_agree_with_each_other(value, expected):
    assert value == pytest.approx(expected, rel=1e-14)


def test_no_other_file_has_a_factor_of_its_own():
    """96.485 and 23.06 appear where somebody did not look here."""
    from pathlib import Path

    package = Path(units.__file__).parent
    found = [
        p
        for p in package.rglob("*.py")
        if p.name != "units.py" and ("96.48" in p.read_text() or "23.06" in p.read_text())
    ]
    assert found == []
