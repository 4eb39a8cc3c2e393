"""Results are remembered with their tensor, until it is written to."""

from __future__ import annotations

import torch

from prunecca.covariance.memo import Memo


def test_results_are_remembered_by_name_until_a_write() -> None:
    matrix = torch.eye(3)
    memo = Memo(matrix)
    assert memo.recall("trace") is None
    memo.keep("trace", 3)
    memo.keep("rank", 3)
    assert (memo.recall("trace"), memo.recall("rank"), memo.recall("norm")) == (3, 3, None)
    matrix[0, 0] = 5
    assert memo.recall("trace") is None
    memo.keep("trace", 7)
    assert (memo.recall("trace"), memo.recall("rank")) == (7, None)


def test_a_memo_follows_its_tensor_and_no_other() -> None:
    matrix = torch.eye(3)
    memo = Memo().bound_to(matrix)
    assert memo.bound_to(matrix) is memo
    assert memo.bound_to(matrix.clone()) is not memo
    unbound = Memo()
    unbound.keep("trace", 3)
    assert unbound.recall("trace") is None


def test_inference_tensors_have_no_version_but_are_remembered_until_they_are_written_to() -> None:
    with torch.inference_mode():
        matrix = torch.eye(3)
        memo = Memo(matrix)
        memo.keep("trace", 3)
        assert memo.recall("trace") == 3
        matrix[0, 0] = 5
        assert memo.recall("trace") is None
