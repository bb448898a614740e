"""Random streams: all derive from one seed, and none depends on how many replicas there are."""

import numpy as np
from numpy.typing import NDArray

_START_FRAMES, _VELOCITIES, _INTEGRATOR, _BAROSTAT = range(4)


def choose_start_frames(n_available: int, n_replicas: int, seed: int) -> NDArray[np.int64]:
    """Places of the start frames, drawn without replacement; more replicas extend the list."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_START_FRAMES,))
    return np.random.default_rng(sequence).permutation(n_available)[:n_replicas]


def velocity_generator(seed: int, replica: int) -> np.random.Generator:
    """The generator of the initial momenta of one replica."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_VELOCITIES, replica)))


def integrator_seed(seed: int, replica: int, step: int = 0) -> int:
    """Seed of a stochastic integrator, 1 to 2^31 - 1.

    Args:
        seed: the run's seed.
        replica: its number.
        step: where the integrator starts; a stream that was lost must not be repeated.
    """
    return _engine_seed(seed, (_INTEGRATOR, replica, step))


def barostat_seed(seed: int, replica: int, step: int = 0) -> int:
    """Seed of the barostat, 1 to 2^31 - 1; arguments as of :func:`integrator_seed`."""
    return _engine_seed(seed, (_BAROSTAT, replica, step))


def _engine_seed(seed: int, key: tuple[int, ...]) -> int:
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    # 0 would let OpenMM choose a seed of its own.
    return int(sequence.generate_state(1)[0] % (2**31 - 1)) + 1
