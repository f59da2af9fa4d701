"""Questions about memory layout, against enumerating every element's address."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sign_ext.ops.layout import is_dense, may_overlap_itself, same_layout, share_memory


def addresses(tensor: Tensor) -> Counter[int]:
    """How often each element of the storage is reached."""
    indices = itertools.product(*map(range, tensor.shape))
    return Counter(
        tensor.storage_offset() + sum(i * s for i, s in zip(index, tensor.stride(), strict=True))
        for index in indices
    )


strided = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), max_size=4).map(
    lambda dimensions: torch.zeros(200).as_strided(
        [size for size, _ in dimensions], [stride for _, stride in dimensions], 3
    )
)


@given(strided)
def test_dense_means_each_place_of_one_stretch_once(tensor):
    reached = addresses(tensor)
    stretch = max(reached) - min(reached) + 1
    assert is_dense(tensor) == (stretch == tensor.numel() == len(reached))


@given(strided)
def test_what_overlaps_itself_is_always_found(tensor):
    if max(addresses(tensor).values()) > 1:
        assert may_overlap_itself(tensor)
    if is_dense(tensor):
        assert not may_overlap_itself(tensor)


def test_gaps_are_no_overlap():
    assert not may_overlap_itself(torch.zeros(6, 8)[::2, 1::3])
    assert not may_overlap_itself(torch.zeros(0, 3))
    assert may_overlap_itself(torch.zeros(1, 3).expand(5, 3))


def test_strides_of_single_elements_do_not_count():
    a = torch.zeros(6).as_strided((1, 2, 3), (99, 3, 1))
    assert same_layout(a, torch.zeros(1, 2, 3))
    assert not same_layout(torch.zeros(2, 3), torch.zeros(3, 2).t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_is_shared_only_where_stretches_meet(dtype):
    base = torch.zeros(10, dtype=dtype)
    assert share_memory(base, base)
    assert share_memory(base[:6], base[5:])
    assert not share_memory(base[:5], base[5:])
    assert not share_memory(base, base.clone())
    assert not share_memory(base[:0], base)
    behind_the_first = base.view(torch.uint8)[base.element_size() :]
    assert share_memory(behind_the_first, base[1:2])
    assert not share_memory(behind_the_first, base[:1])
