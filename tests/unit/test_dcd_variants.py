"""DCD files of other writers: byte orders, X-PLOR, angles in degrees; what is not read is refused in words."""

import struct

import numpy as np
import pytest

from openmm_mlbench.errors import TrajectoryError
from openmm_mlbench.trajectory_stream import open_trajectory

N_ATOMS, N_FRAMES = 5, 6
NUMBERS = np.full(N_ATOMS, 6)
LENGTHS, ANGLES = np.array([20.0, 21.0, 22.0]), np.array([80.0, 95.0, 100.0])


def random_frames():
    return np.random.default_rng(0).normal(scale=3, size=(N_FRAMES, N_ATOMS, 3)).astype(np.float32)


def dcd(
    path,
    order="<",
    *,
    cell=None,
    version=24,
    delta=0.0005 / 0.04888821,
    fixed=0,
    fourth=0,
    n_stated=N_FRAMES,
    marker="i",
    frames=None,
):
    """A DCD file written word by word; ``cell``: six numbers in the order of the file."""

    def record(content):
        size = struct.pack(order + marker, len(content))
        return size + content + size

    control = [n_stated, 100, 100, 0, 0, 0, 0, 0, fixed, 0, int(cell is not None), fourth, *[0] * 7, version]
    header = bytearray(b"CORD" + struct.pack(f"{order}20i", *control))
    if version:
        struct.pack_into(f"{order}f", header, 4 + 36, delta)
    else:
        struct.pack_into(f"{order}d", header, 4 + 36, delta)
    parts = [record(bytes(header)), record(struct.pack(f"{order}i", 2) + b"x" * 160)]
    parts.append(record(struct.pack(f"{order}i", N_ATOMS)))
    for frame in random_frames() if frames is None else frames:
        if cell is not None:
            parts.append(record(np.asarray(cell, dtype=f"{order}f8").tobytes()))
        parts += [record(frame[:, axis].astype(f"{order}f4").tobytes()) for axis in range(3)]
    path.write_bytes(b"".join(parts))
    return path


def cosine_cell():
    alpha, beta, gamma = np.cos(np.radians(ANGLES))
    return [LENGTHS[0], gamma, LENGTHS[1], beta, alpha, LENGTHS[2]]


def degree_cell():
    return [LENGTHS[0], ANGLES[2], LENGTHS[1], ANGLES[1], ANGLES[0], LENGTHS[2]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("cell", [None, "cosines", "degrees"])
def test_both_byte_orders_with_and_without_cell(tmp_path, order, cell):
    numbers = {"cosines": cosine_cell(), "degrees": degree_cell(), None: None}[cell]
    file = open_trajectory(dcd(tmp_path / "a.dcd", order, cell=numbers), NUMBERS, 0.05)
    found = file.read()
    np.testing.assert_array_equal(found.positions_A.astype(np.float32), random_frames())
    np.testing.assert_allclose(found.times_ps, 0.05 * np.arange(1, N_FRAMES + 1))
    if cell is None:
        assert found.box_vectors_nm is None
        return
    boxes = 10 * found.box_vectors_nm
    np.testing.assert_allclose(np.linalg.norm(boxes, axis=2), np.tile(LENGTHS, (N_FRAMES, 1)))
    a, b, c = boxes[0]
    cosines = [u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in ((b, c), (a, c), (a, b))]
    np.testing.assert_allclose(np.degrees(np.arccos(cosines)), ANGLES)


@pytest.mark.parametrize("order", ["<", ">"])
def test_x_plor_has_a_double_time_step_and_no_cell(tmp_path, order):
    # Whose second half would be taken for the flag of the cell.
    path = dcd(tmp_path / "a.dcd", order, version=0)
    file = open_trajectory(path, NUMBERS, 0.05)
    assert not file.has_cell
    np.testing.assert_array_equal(file.read().positions_A.astype(np.float32), random_frames())
    with pytest.raises(TrajectoryError, match=r"0\.05 ps apart by the file"):
        open_trajectory(path, NUMBERS, 0.1)


def test_frames_that_nobody_counted(tmp_path):
    assert open_trajectory(dcd(tmp_path / "a.dcd", n_stated=0), NUMBERS, 0.05).n_frames == N_FRAMES


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"fixed": 2}, "2 fixed atoms"),
        ({"fourth": 1}, "fourth dimension"),
        ({"marker": "q"}, "64-bit record markers"),
        ({"marker": "q", "order": ">"}, "64-bit record markers"),
        ({"n_stated": 9}, "header says 9 frames, the file holds 6 and 0 bytes more"),
        # The symmetric shape matrix that CHARMM wrote for triclinic cells.
        ({"cell": [19.5, -2.1, 20.6, -1.2, -2.2, 21.7]}, "shape matrix"),
        ({"cell": [20.0, 170.0, 20.0, 170.0, 170.0, 20.0]}, "the cell of frame 0 is none"),
    ],
)
def test_what_is_not_read_is_refused_in_words(tmp_path, options, wanted):
    path = dcd(tmp_path / "a.dcd", **options)
    with pytest.raises(TrajectoryError, match=wanted):
        open_trajectory(path, NUMBERS, 0.05).read()


@pytest.mark.parametrize("content", [b"", b"\x00" * 3, b"MODEL 1\nATOM\n" * 40, b"\x54\x00\x00\x00CORD"])
def test_what_is_no_dcd(tmp_path, content):
    (tmp_path / "a.dcd").write_bytes(content)
    with pytest.raises(TrajectoryError, match="not a DCD file"):
        open_trajectory(tmp_path / "a.dcd", NUMBERS, 0.05)


@pytest.mark.parametrize("lost", [1, 4, 30, 90])
def test_truncated(tmp_path, lost):
    path = dcd(tmp_path / "a.dcd", ">", cell=cosine_cell())
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(TrajectoryError, match="header says 6 frames, the file holds 5"):
        open_trajectory(path, NUMBERS, 0.05)


def test_damaged_markers(tmp_path):
    path = dcd(tmp_path / "a.dcd", cell=cosine_cell())
    content = bytearray(path.read_bytes())
    frame_bytes = 56 + 3 * (8 + 4 * N_ATOMS)
    content[-2 * frame_bytes] ^= 0xFF
    path.write_bytes(bytes(content))
    file = open_trajectory(path, NUMBERS, 0.05)
    with pytest.raises(TrajectoryError, match="damaged at frame 4"):
        file.read()


@pytest.mark.parametrize("ending", ["xtc", "nc"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_truncated_xtc_and_netcdf(tmp_path, ending, share):
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(40):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    positions = np.random.default_rng(0).normal(size=(30, 40, 3)).astype(np.float32)
    path = tmp_path / f"a.{ending}"
    mdtraj.Trajectory(positions, topology, time=0.1 * np.arange(30)).save(str(path))
    whole = path.read_bytes()
    assert open_trajectory(path, np.full(40, 6), 0.1).read().n_frames == 30
    path.write_bytes(whole[: int(share * len(whole))])
    if share and ending == "xtc" and int(share * len(whole)) % (len(whole) // 30) == 0:
        pytest.fail("cut between frames: choose another share")
    with pytest.raises(TrajectoryError, match=f"a.{ending}") as caught:
        open_trajectory(path, np.full(40, 6), 0.1).read()
    assert "\n" not in str(caught.value)
