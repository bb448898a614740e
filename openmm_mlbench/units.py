"""The only place where conversion factors stand.

Three worlds meet in this package (see docs/units.md): networks and data sets
use A, eV and fs; OpenMM uses nm, kJ/mol and ps; reports print distances in A,
forces in meV/A and times in ps.  ``tests/unit/test_units.py`` compares every
factor with ``openmm.unit``.

Source of the constants: CODATA 2018 (exact SI values of e, k_B and N_A); the
thermochemical calorie is 4.184 J by definition.
"""

AVOGADRO = 6.02214076e23
ELEMENTARY_CHARGE = 1.602176634e-19
BOLTZMANN = 1.380649e-23

ANGSTROM_PER_NM = 10.0
NM_PER_ANGSTROM = 0.1
FS_PER_PS = 1000.0
PS_PER_FS = 0.001

KJMOL_PER_EV = ELEMENTARY_CHARGE * AVOGADRO / 1000.0
EV_PER_KJMOL = 1.0 / KJMOL_PER_EV
KJMOL_PER_KCALMOL = 4.184
EV_PER_KCALMOL = KJMOL_PER_KCALMOL / KJMOL_PER_EV
KJMOL_NM_PER_EV_ANGSTROM = KJMOL_PER_EV * ANGSTROM_PER_NM
MEV_PER_EV = 1000.0

# CODATA 2018 Hartree energy and Bohr radius.
EV_PER_HARTREE = 27.211386245988
ANGSTROM_PER_BOHR = 0.529177210903

BOLTZMANN_KJMOL_K = BOLTZMANN * AVOGADRO / 1000.0
BOLTZMANN_EV_K = BOLTZMANN / ELEMENTARY_CHARGE
