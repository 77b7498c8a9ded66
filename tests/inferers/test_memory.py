"""Running out of memory: halved batches, nothing lost, nothing done twice in the result."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch

from fairmedfm_monai.inferers.memory import BatchSize, is_out_of_memory, run_batched

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to allocate"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("fits", [1, 2, 3])
def test_halves_until_it_fits_and_loses_nothing(error: Exception, fits: int, caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    def call(chunk: Sequence[int]) -> list[int]:
        sizes.append(len(chunk))
        if len(chunk) > fits:
            raise error
        return list(chunk)

    batch = BatchSize("slice_batch", 8)
    with caplog.at_level(logging.WARNING):
        found = [item for result in run_batched(range(11), batch, call) for item in result]
    assert found == list(range(11))
    assert batch.size <= fits
    assert sizes[0] == 8
    assert f"slice_batch={batch.size}" in caplog.text
    assert caplog.text.count("out of memory: going on") == {1: 3, 2: 2, 3: 2}[fits]


def test_halves_from_what_was_tried() -> None:
    """Three items in a batch of 100: the next try must be one, not fifty."""
    sizes: list[int] = []

    def call(chunk: Sequence[int]) -> None:
        sizes.append(len(chunk))
        if len(chunk) > 1:
            raise MemoryError

    list(run_batched([1, 2, 3], BatchSize("prompt_batch", 100), call))
    assert sizes == [3, 1, 1, 1]


def test_gives_up_at_one_with_advice() -> None:
    def call(chunk: Sequence[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory") as caught:
        list(run_batched([1, 2], BatchSize("slice_batch", 2), call))
    if hasattr(caught.value, "__notes__"):
        assert "`slice_batch` is down to 1" in caught.value.__notes__[0]


def test_other_errors_pass() -> None:
    def call(chunk: Sequence[int]) -> None:
        raise RuntimeError("sizes of tensors must match")

    batch = BatchSize("slice_batch", 4)
    with pytest.raises(RuntimeError, match="must match"):
        list(run_batched([1, 2], batch, call))
    assert batch.size == 4
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_allocator_of_the_cpu_is_understood() -> None:
    """The message is PyTorch's own."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
