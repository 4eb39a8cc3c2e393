"""Which shifts a CUDA device does without for sixteen-bit activations."""

import numpy as np
import torch

from prunecca.covariance.accumulate import without_small


def test_a_shift_of_no_more_than_a_deviation_is_left_out():
    shift = torch.tensor([0.0, 0.5, -1.0, 1.0, -1.5, 3.0], dtype=torch.float64)
    deviation = torch.tensor([1.0, 1.0, 1.0, 0.75, 1.0, 0.0], dtype=torch.float64)
    np.testing.assert_array_equal(without_small(shift, deviation), [0, 0, 0, 1.0, -1.5, 3.0])
