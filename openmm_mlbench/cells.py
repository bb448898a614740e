"""Periodic cells of any shape: fractional coordinates, heights, nearest images."""

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError


def inverse_cells(box_vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of cells whose rows are box vectors: fractional = cartesian @ inverse.

    Args:
        box_vectors: (n_frames, 3, 3).

    Raises:
        MetricError: a cell has no volume or is not finite.
    """
    boxes = np.asarray(box_vectors, dtype=np.float64)
    volumes = cell_volumes(boxes)
    if not (np.isfinite(boxes).all() and (volumes > 0).all()):
        frame = int(np.flatnonzero(~(np.isfinite(boxes).all(axis=(1, 2)) & (volumes > 0)))[0])
        raise MetricError(f"the cell of frame {frame} has no volume; wanted three independent box vectors")
    return np.linalg.inv(boxes).astype(np.float64)


def cell_volumes(box_vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_frames,), in the cube of the unit of the box vectors."""
    return np.abs(np.linalg.det(np.asarray(box_vectors, dtype=np.float64))).astype(np.float64)


def cell_heights(box_vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_frames, 3): distance between opposite faces; half the smallest is the reach of one image."""
    return 1.0 / np.linalg.norm(inverse_cells(box_vectors), axis=1)


def nearest_images(vectors: NDArray[np.float64], box_vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shortest of all periodic images of each vector, in a cell of any shape.

    Rounding fractional coordinates finds it only within half the smallest height of the cell,
    so the images around are tried for vectors longer than that.

    Args:
        vectors: (n_frames, ..., 3).
        box_vectors: (n_frames, 3, 3), same unit.
    """
    boxes = np.asarray(box_vectors, dtype=np.float64)
    shape = vectors.shape
    flat = np.asarray(vectors, dtype=np.float64).reshape(len(boxes), -1, 3)
    fractional = flat @ inverse_cells(boxes)
    best = (fractional - np.rint(fractional)) @ boxes
    reach = cell_heights(boxes).min(axis=1) / 2
    frame, which = np.nonzero((best**2).sum(axis=2) > (reach**2)[:, None])
    if len(frame):
        # After rounding, the shortest image differs by at most this many cells along each vector.
        longest = np.linalg.norm(boxes, axis=2).sum(axis=1) / 2
        extent = int(np.ceil((longest[:, None] / cell_heights(boxes)).max() + 0.5))
        extent = min(extent, 3)
        steps = np.arange(-extent, extent + 1)
        shifts = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        for part in np.array_split(np.arange(len(frame)), len(frame) // 20_000 + 1):
            f, w = frame[part], which[part]
            images = best[f, w][:, None, :] + shifts.astype(np.float64) @ boxes[f]
            shortest = (images**2).sum(axis=2).argmin(axis=1)
            best[f, w] = images[np.arange(len(f)), shortest]
    return best.reshape(shape)


def cells_of_dcd(records: NDArray[np.float64]) -> NDArray[np.float64]:
    """Box vectors (n_frames, 3, 3) from the cells of a DCD file, in the unit of its lengths.

    Args:
        records: (n_frames, 6): a, cos gamma, b, cos beta, cos alpha, c.
    """
    a, cos_gamma, b, cos_beta, cos_alpha, c = records.T
    vectors = np.zeros((len(records), 3, 3))
    vectors[:, 0, 0] = a
    vectors[:, 1, 0] = b * cos_gamma
    vectors[:, 1, 1] = b * np.sqrt(1 - cos_gamma**2)
    vectors[:, 2, 0] = c * cos_beta
    vectors[:, 2, 1] = c * (cos_alpha - cos_beta * cos_gamma) / np.sqrt(1 - cos_gamma**2)
    vectors[:, 2, 2] = np.sqrt(c**2 - vectors[:, 2, 0] ** 2 - vectors[:, 2, 1] ** 2)
    return vectors


def reduce_cell(
    cell: NDArray[np.float64], positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same lattice with box vectors as OpenMM wants them, and the positions turned with it.

    Its box vectors are a = (a_x, 0, 0), b = (b_x, b_y, 0), c with diagonal elements above zero,
    a_x >= 2 |b_x|, a_x >= 2 |c_x| and b_y >= 2 |c_y|.  A rotation gives the first; adding whole
    box vectors to b and c gives the second and changes no position.  Positions stay unwrapped.

    Args:
        cell: (3, 3), rows are lattice vectors.
        positions: (..., n_atoms, 3), same unit.

    Returns:
        box vectors (3, 3) and positions, same shapes.

    Raises:
        MetricError: the vectors span no volume.
    """
    vectors = np.asarray(cell, dtype=np.float64)
    volume = np.linalg.det(vectors)
    if not (np.isfinite(vectors).all() and abs(volume) > 0):
        raise MetricError("the cell has no volume; wanted three independent box vectors")
    if volume < 0:
        # A left-handed set of vectors spans the same lattice with one of them reversed.
        vectors = vectors * np.array([[1.0], [1.0], [-1.0]])
    # Rows in terms of an orthonormal frame along a, then in the plane of a and b.
    x = vectors[0] / np.linalg.norm(vectors[0])
    z = np.cross(vectors[0], vectors[1])
    z /= np.linalg.norm(z)
    frame = np.stack([x, np.cross(z, x), z])
    box = np.tril(vectors @ frame.T)
    box[2] -= box[1] * np.rint(box[2, 1] / box[1, 1])
    box[2] -= box[0] * np.rint(box[2, 0] / box[0, 0])
    box[1] -= box[0] * np.rint(box[1, 0] / box[0, 0])
    unchanged = np.array_equal(frame, np.eye(3))
    return box, positions if unchanged else np.asarray(positions, dtype=np.float64) @ frame.T
