"""Random numbers as a function of a key: the global generators of Python, NumPy and torch's CPU."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info


def seed_all(*key: int) -> int:
    """Seed the global generators by a key. Returns the seed of torch, for other devices."""
    python, numpy, seed = map(int, np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(seed)
    return seed


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators by a key inside the `with` block, and restore them afterwards.

    Workers of a DataLoader do not restore them: nothing else in a worker draws random numbers, and
    restoring takes six times as long as seeding.
    """
    if get_worker_info():
        seed_all(*key)
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
