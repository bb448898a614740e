"""The native bias beside a naive sum of hills; its forces; the files it leaves."""

import dataclasses
import math

import harmonic_ethanol as ethanol
import numpy as np
import openmm
import pytest

from openmm_mlbench.dihedrals import compute_dihedrals
from openmm_mlbench.errors import ProtocolError, SimulationError
from openmm_mlbench.metadynamics import BiasVariable, Metadynamics
from openmm_mlbench.metrics.free_energy import read_hills, read_plumed, surface_from_hills
from openmm_mlbench.protocol import load_protocol
from openmm_mlbench.simulation.metadynamics.hills import BiasGrid
from openmm_mlbench.simulation.metadynamics.native import BiasForce, NativeBias
from openmm_mlbench.simulation.runner import run_protocol
from openmm_mlbench.units import BOLTZMANN_KJMOL_K

PHI = BiasVariable(name="phi", atoms=(0, 1, 2, 3), sigma_rad=0.35, grid_bins=120)
PSI = BiasVariable(name="psi", atoms=(1, 2, 3, 4), sigma_rad=0.25, grid_bins=150)
# Hills on both sides of the seam, in the corner, and far away.
CENTRES = [(-3.1, 3.0), (3.1, -3.1), (0.3, 1.2), (0.4, 1.0), (-1.5, 2.9), (2.0, -2.0)]


def description(variables=(PHI, PSI), **options):
    options = {"height_kJ_mol": 1.2, "pace_steps": 500, "bias_factor": 6.0, "temperature_K": 300.0} | options
    return Metadynamics(variables=variables, **options)


def rows(variables):
    """Lines of a HILLS file, of different heights."""
    sigmas = [variable.sigma_rad for variable in variables]
    return [
        [float(i), *centre[: len(variables)], *sigmas, 1.44 / (1 + 0.2 * i), 6.0]
        for i, centre in enumerate(CENTRES)
    ]


def naive_bias(hills, s, bias_factor=6.0):
    """Sum over the hills at one point, one after another, over all images."""
    n, total = len(s), 0.0
    for row in hills:
        centre, sigma, stored = row[1 : n + 1], row[n + 1 : 2 * n + 1], row[2 * n + 1]
        x = 0.0
        for i in range(n):
            d = min((s[i] - centre[i] + k * 2 * math.pi for k in (-2, -1, 0, 1, 2)), key=abs)
            x += d * d / (2 * sigma[i] ** 2)
        if x < 6.25:
            height = stored * (bias_factor - 1) / bias_factor
            total += height * (math.exp(-x) - math.exp(-6.25)) / (1 - math.exp(-6.25))
    return total


def context_of(variables):
    grid = BiasGrid(description(variables))
    for row in rows(variables):
        grid.add(row)
    bias = BiasForce(description(variables), grid, 31, False)
    system = openmm.System()
    for _ in range(5):
        system.addParticle(12.0)
    system.addForce(bias.force)
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    return grid, bias, context


def random_chains(n):
    """Bent chains of five atoms, nm."""
    generator = np.random.default_rng(5)
    chain = np.array([[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.35, 0.14, 0.05], [0.4, 0.2, 0.17]])
    return chain + 0.08 * generator.standard_normal((n, 5, 3))


@pytest.mark.parametrize("variables", [(PHI,), (PHI, PSI)], ids=["one angle", "two angles"])
def test_grid_is_the_naive_sum(variables):
    grid, _, _ = context_of(variables)
    hills = rows(variables)
    generator = np.random.default_rng(1)
    for _ in range(200):
        place = tuple(int(generator.integers(n)) for n in grid.values.shape)
        s = [points[k] for points, k in zip(grid.points, place, strict=True)]
        assert grid.values[place] == pytest.approx(naive_bias(hills, s), abs=1e-12)
    assert grid.n_hills == len(CENTRES)


@pytest.mark.parametrize("variables", [(PHI,), (PHI, PSI)], ids=["one angle", "two angles"])
def test_energy_is_the_naive_sum(variables):
    """Between grid points a cubic spline interpolates; the kernel has a kink where it is cut."""
    _, bias, context = context_of(variables)
    hills = rows(variables)
    seen = []
    for positions in random_chains(300):
        context.setPositions(positions)
        angles = compute_dihedrals(positions[None], np.array([v.atoms for v in variables]))[0]
        np.testing.assert_allclose(bias.angles(context), angles, atol=1e-9)
        expected = naive_bias(hills, angles)
        seen.append(expected)
        assert bias.energy(context) == pytest.approx(expected, abs=1e-3)
    assert max(seen) > 0.5


def test_forces_are_the_slope_of_the_energy():
    _, bias, context = context_of((PHI, PSI))
    for positions in random_chains(8):
        context.setPositions(positions)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        for atom in range(5):
            for axis in range(3):
                energies = []
                for shift in (-1e-5, 1e-5):
                    moved = positions.copy()
                    moved[atom, axis] += shift
                    context.setPositions(moved)
                    energies.append(bias.energy(context))
                slope = (energies[1] - energies[0]) / 2e-5
                assert forces[atom, axis] == pytest.approx(-slope, rel=1e-5, abs=1e-5)


def test_the_seam_is_smooth():
    """Energy and its slope just left and right of phi = pi."""
    _, bias, context = context_of((PHI,))

    def energy(phi):
        first, last = [0.1, -0.1, 0.0], [0.1 * np.cos(phi), 0.2, 0.1 * np.sin(phi)]
        positions = np.array([first, [0, -0.1, 0], [0, 0.1, 0], last, [1, 1, 1]])
        context.setPositions(positions)
        assert bias.angles(context)[0] == pytest.approx(math.remainder(-phi, 2 * math.pi), abs=1e-9)
        return bias.energy(context)

    left, at, right = (energy(math.pi + d) for d in (-1e-3, 1e-9, 1e-3))
    assert at > 0.5
    assert right - at == pytest.approx(at - left, abs=2e-5)


def test_hills_and_colvar_tell_what_happened(tmp_path):
    """Heights and biases of a real run from the naive sum of the hills before."""
    bias = description(
        (
            BiasVariable(name="phi", atoms=(1, 0, 2, 8), sigma_rad=0.35, grid_bins=120),
            BiasVariable(name="psi", atoms=(2, 0, 1, 5), sigma_rad=0.35, grid_bins=120),
        ),
        pace_steps=100,
        temperature_K=500.0,
    )
    protocol = dataclasses.replace(load_protocol("ethanol", "langevin"), metadynamics=bias)
    run_protocol(
        protocol,
        ethanol.HarmonicEthanol(),
        tmp_path / "run",
        start_frames=ethanol.frames(),
        replicas=1,
        length_ps=5.0,
        metadynamics="native",
    )
    folder = tmp_path / "run" / "replica-0"
    table, colvar = read_plumed(folder / "HILLS"), read_plumed(folder / "COLVAR")
    assert table.fields == ("time", "phi", "psi", "sigma_phi", "sigma_psi", "height", "biasf")
    assert (table.settings["kerneltype"], table.settings["multivariate"]) == ("stretched-gaussian", "false")
    assert (table.settings["min_phi"], table.settings["max_psi"]) == ("-pi", "pi")
    np.testing.assert_allclose(table["time"], 0.05 * np.arange(1, 101), atol=1e-12)
    # No hill at step 0, and a row of COLVAR for every frame and the start.
    np.testing.assert_allclose(colvar["time"], 0.05 * np.arange(101), atol=1e-12)
    np.testing.assert_allclose(colvar["phi"][1:], table["phi"], atol=1e-9)
    hills = table.rows.tolist()
    assert hills[0][5] == pytest.approx(1.44, abs=1e-12)
    kT = BOLTZMANN_KJMOL_K * 500.0
    for i, row in enumerate(hills):
        before = naive_bias(hills[:i], row[1:3])
        assert colvar["metad.bias"][i + 1] == pytest.approx(before, abs=1e-3)
        assert row[5] == pytest.approx(1.44 * math.exp(-before / (kT * 5)), rel=1e-3)
    # What our reader makes of it is what the bias says: V = -(1 - 1/g) F.
    grid = BiasGrid(bias)
    for row in hills:
        grid.add(row)
    F = surface_from_hills(read_hills(folder / "HILLS"), n_bins=120).F
    shifted = (F - F.max()) * 5 / 6
    np.testing.assert_allclose(-shifted, grid.values - grid.values.min(), atol=1e-9)


def test_what_makes_no_sense_is_one_line(tmp_path):
    for change, message in (
        ({"height_kJ_mol": 0.0}, "height_kJ_mol of metadynamics is 0; it must be above 0"),
        ({"bias_factor": 1.0}, "bias_factor of metadynamics is 1; it must be above 1"),
        ({"pace_steps": 0}, "pace_steps of metadynamics is 0"),
        ({"variables": ()}, "metadynamics on no variable"),
        ({"variables": (PHI, PHI)}, "metadynamics on phi phi"),
    ):
        with pytest.raises(ProtocolError, match=message):
            description(**change)
    for change, message in (
        ({"name": "my phi"}, "'my phi'; wanted letters"),
        ({"atoms": (0, 1, 2, 2)}, "on atoms 0 1 2 2; wanted four different"),
        ({"sigma_rad": math.nan}, "sigma_rad of phi is nan"),
        (
            {"grid_bins": 10},
            "grid_bins of phi is 10: coarser than sigma_rad = 0.35; use at least 18, better 36",
        ),
    ):
        with pytest.raises(ProtocolError, match=message):
            dataclasses.replace(PHI, **change)
    far = description((dataclasses.replace(PHI, atoms=(0, 1, 2, 99)),))
    bias = NativeBias(far, 0.001, tmp_path, [tmp_path], None)
    with pytest.raises(SimulationError, match="metadynamics on atom 99, but the system has 9"):
        bias.add_to(ethanol.HarmonicEthanol().create_system(ethanol.topology()))
