"""DCD files as OpenMM writes them, and what happens to damaged ones."""

from pathlib import Path

import numpy as np
import pytest

from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.topology import Topology
from openmm_mlbench.trajectory import Trajectory, read_dcd

N_ATOMS, N_FRAMES = 4, 7
BOX_NM = np.array([[3.0, 0.0, 0.0], [1.0, 2.8, 0.0], [-0.9, 0.8, 2.7]])


@pytest.fixture
def topology():
    names = tuple(f"C{i}" for i in range(N_ATOMS))
    return Topology(
        atomic_numbers=np.full(N_ATOMS, 6, dtype=np.int64), names=names, path=Path("four-carbons.pdb")
    )


@pytest.fixture
def positions_nm():
    return np.random.default_rng(0).normal(scale=0.3, size=(N_FRAMES, N_ATOMS, 3))


def write_dcd(path, positions_nm, box_nm=None):
    """By OpenMM itself: frames every 100 steps of 0.5 fs."""
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for _ in range(positions_nm.shape[1]):
        topology.addAtom("C", app.Element.getBySymbol("C"), residue)
    if box_nm is not None:
        topology.setPeriodicBoxVectors(box_nm * unit.nanometer)
    with open(path, "wb") as file:
        dcd = app.DCDFile(file, topology, 0.0005 * unit.picosecond, firstStep=100, interval=100)
        for frame in positions_nm:
            dcd.writeModel(
                frame * unit.nanometer, periodicBoxVectors=None if box_nm is None else box_nm * unit.nanometer
            )
    return path


def test_dcd_of_openmm_comes_back(tmp_path, topology, positions_nm):
    trajectory = read_dcd(write_dcd(tmp_path / "a.dcd", positions_nm), topology, 0.05)
    assert trajectory.positions_nm.shape == (N_FRAMES, N_ATOMS, 3)
    # float32 in A.
    np.testing.assert_allclose(trajectory.positions_nm, positions_nm, atol=1e-6)
    np.testing.assert_allclose(trajectory.positions_A, 10 * positions_nm, atol=1e-5)
    np.testing.assert_allclose(trajectory.times_ps, 0.05 * np.arange(1, N_FRAMES + 1), rtol=1e-5)
    assert trajectory.box_vectors_nm is None


def test_same_frames_as_mdtraj(tmp_path, topology, positions_nm, capfd):
    from mdtraj.formats import DCDTrajectoryFile

    path = write_dcd(tmp_path / "p.dcd", positions_nm, BOX_NM)
    trajectory = read_dcd(path, topology, 0.05)
    assert capfd.readouterr().out == ""
    with DCDTrajectoryFile(str(path)) as file:
        positions_A, lengths_A, angles_deg = file.read()
    np.testing.assert_array_equal(trajectory.positions_A.astype(np.float32), positions_A)
    np.testing.assert_allclose(10 * np.linalg.norm(trajectory.box_vectors_nm, axis=-1), lengths_A, rtol=1e-6)
    a, b, c = trajectory.box_vectors_nm[0]
    cosines = [np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v) for u, v in ((b, c), (a, c), (a, b))]
    np.testing.assert_allclose(np.degrees(np.arccos(cosines)), angles_deg[0], rtol=1e-5)


def test_triclinic_box_comes_back(tmp_path, topology, positions_nm):
    trajectory = read_dcd(write_dcd(tmp_path / "p.dcd", positions_nm, BOX_NM), topology, 0.05)
    np.testing.assert_allclose(trajectory.box_vectors_nm, np.tile(BOX_NM, (N_FRAMES, 1, 1)), atol=1e-6)


@pytest.mark.parametrize("lost_bytes", [10, 72, 100])
def test_truncated_file_is_refused_and_readable_in_part(tmp_path, topology, positions_nm, lost_bytes):
    path = write_dcd(tmp_path / "cut.dcd", positions_nm)
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    with pytest.raises(TrajectoryError, match=r"header says 7 frames, the file holds [56] .*--resume"):
        read_dcd(path, topology, 0.05)
    trajectory = read_dcd(path, topology, 0.05, allow_partial=True)
    assert trajectory.n_frames == (5 if lost_bytes == 100 else 6)
    np.testing.assert_allclose(trajectory.positions_nm, positions_nm[: trajectory.n_frames], atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"\x54\x00\x00\x00CORD"])
def test_other_files_are_refused(tmp_path, topology, content):
    (tmp_path / "no.dcd").write_bytes(content)
    with pytest.raises(TrajectoryError, match="not a DCD file"):
        read_dcd(tmp_path / "no.dcd", topology, 0.05)


def test_damaged_record_is_refused(tmp_path, topology, positions_nm):
    path = write_dcd(tmp_path / "bad.dcd", positions_nm)
    content = bytearray(path.read_bytes())
    frame_bytes = 3 * (8 + 4 * N_ATOMS)
    content[-2 * frame_bytes] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(TrajectoryError, match="damaged at frame 5 of 7"):
        read_dcd(path, topology, 0.05)


def test_missing_file(tmp_path, topology):
    with pytest.raises(TrajectoryError, match=r"gone\.dcd: cannot be read \(No such file"):
        read_dcd(tmp_path / "gone.dcd", topology, 0.05)


def test_other_atoms_are_refused(tmp_path, topology, positions_nm):
    path = write_dcd(tmp_path / "a.dcd", positions_nm[:, :3])
    with pytest.raises(TrajectoryError, match=r"3 atoms, but four-carbons\.pdb has 4"):
        read_dcd(path, topology, 0.05)


def test_other_frame_interval_is_refused(tmp_path, topology, positions_nm):
    with pytest.raises(TrajectoryError, match=r"0\.05 ps apart by its header, not 0\.1 ps"):
        read_dcd(write_dcd(tmp_path / "a.dcd", positions_nm), topology, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions_nm": np.zeros((2, 4))}, r"shape \(2, 4\); wanted"),
        ({"atomic_numbers": np.array([1, 1])}, "4 atoms per frame but 2 atomic numbers"),
        ({"box_vectors_nm": np.zeros((1, 3, 3))}, r"wanted \(2, 3, 3\)"),
        ({"frame_interval_ps": 0.0}, "frame interval 0.0 ps"),
        ({"frame_interval_ps": float("nan")}, "frame interval nan ps"),
    ],
)
def test_trajectory_checks_itself(change, message):
    fields = {
        "positions_nm": np.zeros((2, 4, 3)),
        "box_vectors_nm": None,
        "atomic_numbers": np.ones(4, dtype=np.int64),
        "frame_interval_ps": 0.05,
    }
    assert Trajectory(**fields).n_atoms == 4
    with pytest.raises(TrajectoryError, match=message):
        Trajectory(**(fields | change))
