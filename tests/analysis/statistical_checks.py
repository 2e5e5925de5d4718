"""What the tests of analysis share: repeatable examples, and how far a frequency may stray by chance."""

import numpy as np
from hypothesis import settings

repeatable = settings(deadline=None, derandomize=True)


def binomial_slack(probability: float, repetitions: int) -> float:
    """Four standard errors of a frequency: crossed by chance once in 16,000 seeds."""
    return 4 * float(np.sqrt(probability * (1 - probability) / repetitions))
