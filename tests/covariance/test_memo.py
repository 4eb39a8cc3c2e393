"""A result is computed once per tensor, and again once the tensor was written to."""

from __future__ import annotations

import pytest
import torch

from prunecca.covariance.memo import Memo


def test_a_result_is_computed_once_and_again_after_a_write():
    matrix, calls = torch.eye(3), []
    memo = Memo(matrix)

    def trace(m):
        calls.append(m)
        return float(m.trace())

    assert memo.recall() is None
    assert [memo.get(trace), memo.get(trace), len(calls)] == [3, 3, 1]
    matrix[0, 0] = 5
    assert memo.recall() is None
    assert [memo.get(trace), memo.get(trace), len(calls)] == [7, 7, 2]


def test_a_memo_follows_its_tensor_and_no_other():
    matrix = torch.eye(3)
    memo = Memo().bound_to(matrix)
    assert memo.bound_to(matrix) is memo
    assert memo.bound_to(matrix.clone()) is not memo
    with pytest.raises(ValueError, match="belongs to no matrix"):
        Memo().get(torch.trace)


def test_inference_tensors_have_no_version_but_are_remembered_until_they_are_written_to():
    with torch.inference_mode():
        matrix = torch.eye(3)
        memo = Memo(matrix)
        assert memo.recall() is None
        assert memo.keep(1) == 1
        assert memo.recall() == 1
        matrix[0, 0] = 5
        assert memo.recall() is None
        assert memo.get(lambda m: float(m.trace())) == 7
    assert memo.recall() == 7
