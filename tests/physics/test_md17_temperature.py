"""What temperature the frames of MD17 have: their differences are velocities."""

import numpy as np
import pytest

from openmm_mlbench.data.datasets import data_folder
from openmm_mlbench.data.readers import read_md17_npz
from openmm_mlbench.simulation.momenta import compute_temperatures
from openmm_mlbench.units import NM_PER_ANGSTROM, PS_PER_FS

# H, C and O, Da.
MASSES = {1: 1.008, 6: 12.011, 8: 15.999}


def test_vibrations_of_ethanol_hold_what_the_thermostat_gave_to_all_degrees_of_freedom():
    path = data_folder() / "md17_ethanol_consecutive.npz"
    if not path.is_file():
        pytest.skip("consecutive MD17 frames are not at hand (set MLBENCH_DATA)")
    frames = read_md17_npz(path, "md17", name="ethanol")
    masses = np.array([MASSES[number] for number in frames.atomic_numbers.tolist()])
    positions_nm = frames.positions * NM_PER_ANGSTROM
    velocities = (positions_nm[2:] - positions_nm[:-2]) / (2 * frames.interval_fs * PS_PER_FS)
    found = [
        compute_temperatures(x, v, masses, 0, isolated=True)
        for x, v in zip(positions_nm[1:-1], velocities, strict=True)
    ]
    total, rotation, vibration = (
        float(np.mean([getattr(one, kind) for one in found])) for kind in ("total", "rotation", "vibration")
    )
    centres = np.einsum("a,nax->nx", masses, positions_nm) / masses.sum()
    assert np.ptp(centres, axis=0).max() < 1e-5
    assert rotation < 1e-3
    assert vibration == pytest.approx(500 * 27 / 21, rel=0.005)
    # The total counts 3N - 3 degrees of freedom; over 3N it is what the thermostat was set to.
    assert total * 24 / 27 == pytest.approx(500, rel=0.005)
