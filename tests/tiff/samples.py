"""Random samples, which are the same for a test whichever ran before it."""

from __future__ import annotations

import numpy as np

rng = np.random.default_rng(5)
_STATE = rng.bit_generator.state


def begin_again() -> None:
    """Draw the first samples again."""
    rng.bit_generator.state = _STATE
