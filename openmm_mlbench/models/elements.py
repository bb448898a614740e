"""Nine properties and a radius of the elements, as ForceNet reads them.

Values as collected in mendeleev 0.6.0 (L. Mentel), rounded: radii of Slater, J. Chem. Phys. 41,
3199 (1964), covalent radii of Cordero et al., Dalton Trans. 2832 (2008), first ionization energies
of NIST, electronegativities of Allen, JACS 111, 9003 (1989), and Mann et al., JACS 122, 5132 (2000).
Where no stable anion is known the electron affinity is 0.
"""

# Symbol, atomic number, group, period, block, valence electrons, radius (pm), covalent radius (pm),
# atomic volume (cm3/mol), ionization energy (eV), electron affinity (eV), electronegativity (eV).
_TABLE = """
H   1  1 1 s  1  25  31 14.1 13.598 0.754 13.610
He  2 18 1 s  2 120  28 31.8 24.587 0.000 24.590
Li  3  1 2 s  1 145 128 13.1  5.392 0.618  5.392
Be  4  2 2 s  2 105  96  5.0  9.323 0.000  9.323
B   5 13 2 p  3  85  84  4.6  8.298 0.280 12.130
C   6 14 2 p  4  70  73  5.3 11.260 1.262 15.050
N   7 15 2 p  5  65  71 17.3 14.534 0.000 18.130
O   8 16 2 p  6  60  66 14.0 13.618 1.461 21.360
F   9 17 2 p  7  50  57 17.1 17.423 3.401 24.800
Ne 10 18 2 p  8 160  58 16.8 21.565 0.000 28.310
Na 11  1 3 s  1 180 166 23.7  5.139 0.548  5.140
Mg 12  2 3 s  2 150 141 14.0  7.646 0.000  7.646
Al 13 13 3 p  3 125 121 10.0  5.986 0.433  9.539
Si 14 14 3 p  4 110 111 12.1  8.152 1.390 11.330
P  15 15 3 p  5 100 107 17.0 10.487 0.747 13.330
S  16 16 3 p  6 100 105 15.5 10.360 2.077 15.310
Cl 17 17 3 p  7 100 102 18.7 12.968 3.613 16.970
Ar 18 18 3 p  8  71 106 24.2 15.760 0.000 19.170
K  19  1 4 s  1 220 203 45.3  4.341 0.501  4.340
Ca 20  2 4 s  2 180 176 29.9  6.113 0.025  6.113
Sc 21  3 4 d  3 160 170 15.0  6.561 0.188  7.042
Ti 22  4 4 d  4 140 160 10.6  6.828 0.079  8.170
V  23  5 4 d  5 135 153  8.3  6.746 0.525  9.063
Cr 24  6 4 d  6 140 139  7.2  6.767 0.666  9.770
Mn 25  7 4 d  7 140 150  7.4  7.434 0.000 10.340
Fe 26  8 4 d  8 140 142  7.1  7.902 0.151 10.640
Co 27  9 4 d  9 135 138  6.7  7.881 0.662 10.860
Ni 28 10 4 d 10 135 124  6.6  7.640 1.156 11.130
Cu 29 11 4 d 11 135 132  7.1  7.726 1.235 10.960
Zn 30 12 4 d 12 135 122  9.2  9.394 0.000  9.395
Ga 31 13 4 p  3 130 122 11.8  5.999 0.430 10.390
Ge 32 14 4 p  4 125 120 13.6  7.899 1.233 11.800
As 33 15 4 p  5 115 119 13.1  9.789 0.804 13.080
Se 34 16 4 p  6 115 120 16.5  9.752 2.021 14.340
Br 35 17 4 p  7 115 120 23.5 11.814 3.364 15.880
Rb 37  1 5 s  1 235 220 55.9  4.177 0.486  4.177
Sr 38  2 5 s  2 200 195 33.7  5.695 0.048  5.695
Y  39  3 5 d  3 180 190 19.8  6.217 0.307  6.631
Zr 40  4 5 d  4 155 175 14.1  6.634 0.426  7.808
Nb 41  5 5 d  5 145 164 10.8  6.759 0.917  8.340
Mo 42  6 5 d  6 145 154  9.4  7.092 0.748  8.710
Tc 43  7 5 d  7 135 147  8.5  7.119 0.550  8.940
Ru 44  8 5 d  8 130 146  8.3  7.361 1.050  9.100
Rh 45  9 5 d  9 135 142  8.3  7.459 1.137  9.259
Pd 46 10 5 d 10 140 139  8.9  8.337 0.562  9.402
Ag 47 11 5 d 11 160 145 10.3  7.576 1.302 11.050
Cd 48 12 5 d 12 155 144 13.1  8.994 0.000  8.995
In 49 13 5 p  3 155 142 15.7  5.786 0.300  9.793
Sn 50 14 5 p  4 145 139 16.3  7.344 1.112 10.790
Sb 51 15 5 p  5 145 139 18.4  8.608 1.046 11.740
Te 52 16 5 p  6 140 138 20.5  9.010 1.971 12.760
I  53 17 5 p  7 140 139 25.7 10.451 3.059 13.950
"""
_BLOCKS = {"s": 1.0, "p": 2.0, "d": 3.0}


def _read() -> tuple[dict[int, tuple[float, ...]], dict[int, float]]:
    properties, radii = {}, {}
    for line in _TABLE.strip().splitlines():
        (
            _,
            number,
            group,
            period,
            block,
            valence,
            radius,
            covalent,
            volume,
            ionization,
            affinity,
            negativity,
        ) = line.split()
        plain = (group, period, negativity, covalent, valence, ionization, affinity)
        properties[int(number)] = (*map(float, plain), _BLOCKS[block], float(volume))
        radii[int(number)] = float(radius) / 100.0
    return properties, radii


# By atomic number: (group, period, electronegativity, covalent radius, valence electrons, ionization
# energy, electron affinity, block, volume), and radii in A.
PROPERTIES, RADII_A = _read()
