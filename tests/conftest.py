"""Shared by all tests."""

import numpy as np


def exact_operand(chip: int, shape: tuple[int, ...]) -> np.ndarray:
    """Small integers as floats: sums over any mesh are exact in any order and in bfloat8_b."""
    return np.random.default_rng(chip).integers(-3, 4, shape).astype(np.float32)
