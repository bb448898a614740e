"""Unwrapped paths of tracked atoms, in memory or, where they are long, in a temporary file."""

import tempfile
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from openmm_mlbench.errors import MetricError
from openmm_mlbench.metrics.diffusivity import (
    MSD,
    Diffusivity,
    diffusivity_of_displacements,
    lag_sums,
    mdsim_displacements,
    mdsim_steps,
    origin_series,
    origin_slopes,
    unwrapped_chunks,
)
from openmm_mlbench.trajectory import Trajectory

# Positions held at once; Fourier transforms hold a few times the share of one atom beside them.
MAX_HELD_BYTES = 160 * 2**20
_BYTES = 24


class Paths:
    """Positions of each tracked atom over all frames, nm, unwrapped; a context manager that forgets them.

    Args:
        chunks: of the tracked atoms only, in order.
        n_frames: of all of them.
        remove_drift: subtract the mean of the tracked atoms.
        max_held_bytes: longer paths go to a temporary file, atom by atom.

    Raises:
        MetricError: no frames, NaN, drift removal with one atom, or no room for the file.
    """

    def __init__(
        self,
        chunks: Iterable[Trajectory],
        n_frames: int,
        *,
        remove_drift: bool,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self.n_frames = n_frames
        self.n_atoms = 0
        self.interval_ps = 0.0
        self.drift_removed = remove_drift
        self._max_held_bytes = max_held_bytes
        self._held: NDArray[np.float64] | None = None
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        try:
            self._fill(chunks)
        except BaseException:
            self._file.close()
            raise

    def _fill(self, chunks: Iterable[Trajectory]) -> None:
        at = 0
        for part in unwrapped_chunks(self._watched(chunks), remove_drift=self.drift_removed):
            if (
                self._held is None
                and at == 0
                and part.shape[1] * self.n_frames * _BYTES <= self._max_held_bytes
            ):
                self._held = np.empty((self.n_frames, part.shape[1], 3))
            if self._held is not None:
                self._held[at : at + len(part)] = part
            else:
                self._write(part, at)
            at += len(part)
        if at != self.n_frames or at < 1:
            raise MetricError(f"{at} of {self.n_frames} frames; a displacement wants all of them")

    def _watched(self, chunks: Iterable[Trajectory]) -> Iterator[Trajectory]:
        for chunk in chunks:
            self.n_atoms, self.interval_ps = chunk.n_atoms, chunk.frame_interval_ps
            if self.drift_removed and chunk.n_atoms < 2:
                raise MetricError(
                    "one tracked atom moves with its own mean; use --keep-drift, or select more atoms"
                )
            yield chunk

    def _write(self, part: NDArray[np.float64], at: int) -> None:
        rows = np.ascontiguousarray(part.transpose(1, 0, 2))
        try:
            for atom, row in enumerate(rows):
                self._file.seek((atom * self.n_frames + at) * _BYTES)
                self._file.write(row.tobytes())
        except OSError as error:
            needed = self.n_atoms * self.n_frames * _BYTES / 2**30
            raise MetricError(
                f"no room for {needed:.1f} GiB of paths in {tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a "
                "larger disk, or track fewer atoms"
            ) from error

    def parts(self) -> Iterator[NDArray[np.float64]]:
        """Positions (n_frames, n_some_atoms, 3) of a few atoms at a time, in order."""
        per_part = max(1, self._max_held_bytes // 4 // (self.n_frames * _BYTES))
        for first in range(0, self.n_atoms, per_part):
            last = min(first + per_part, self.n_atoms)
            if self._held is not None:
                yield self._held[:, first:last]
                continue
            self._file.flush()
            self._file.seek(first * self.n_frames * _BYTES)
            count = (last - first) * self.n_frames * 3
            rows = np.frombuffer(self._file.read(count * 8), dtype=np.float64)
            yield rows.reshape(last - first, self.n_frames, 3).transpose(1, 0, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._held = None

    def msd(self, max_lag_ps: float) -> MSD:
        """As :func:`~openmm_mlbench.metrics.diffusivity.compute_msd` has it, up to a lag."""
        n_lags = min(self.n_frames, round(max_lag_ps / self.interval_ps) + 1)
        origins = self.n_frames - np.arange(n_lags)
        per_atom = np.empty((self.n_atoms, n_lags))
        done = 0
        for part in self.parts():
            for k in range(part.shape[1]):
                per_atom[done] = np.maximum(lag_sums(part[:, k : k + 1], n_lags)[:, 0], 0.0) / origins
                done += 1
        per_atom[:, 0] = 0.0
        return MSD(
            lags_ps=np.arange(n_lags, dtype=np.float64) * self.interval_ps,
            msd_nm2=per_atom.mean(axis=0),
            origins=origins,
            per_atom_nm2=per_atom,
            frame_interval_ps=self.interval_ps,
            n_frames=self.n_frames,
            drift_removed=self.drift_removed,
        )

    def _mean(self, values: Iterable[tuple[int, NDArray[np.float64]]]) -> NDArray[np.float64]:
        total: NDArray[np.float64] | None = None
        for n_some, value in values:
            total = n_some * value if total is None else total + n_some * value
        assert total is not None
        return total / self.n_atoms

    def origin_series(self, lag: int) -> NDArray[np.float64]:
        """(n_frames - lag,) squared displacement over a lag, mean over atoms, nm^2."""
        return self._mean((part.shape[1], origin_series(part, lag)) for part in self.parts())

    def origin_slopes(self, lags: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n_origins,) slope of the squared displacement over the lags, of origins at equal distances, nm^2/ps."""
        return self._mean(
            (part.shape[1], origin_slopes(part, lags, self.interval_ps)) for part in self.parts()
        )

    def mdsim(self, lag_ps: float, stride_ps: float) -> Diffusivity:
        """As :func:`~openmm_mlbench.metrics.diffusivity.diffusivity_mdsim` has it."""
        lag, stride = mdsim_steps(self.interval_ps, lag_ps, stride_ps)
        per_atom: list[NDArray[np.float64]] = []

        def of_origins() -> Iterator[tuple[int, NDArray[np.float64]]]:
            for part in self.parts():
                squares = mdsim_displacements(part, lag, stride)
                # With no origin at all there is no mean either; the call below says so.
                per_atom.append(squares.sum(axis=0) / max(len(squares), 1))
                yield part.shape[1], squares.mean(axis=1)

        series = self._mean(of_origins())
        return diffusivity_of_displacements(
            series,
            np.concatenate(per_atom),
            lag,
            stride,
            self.interval_ps,
            self.n_frames,
        )
