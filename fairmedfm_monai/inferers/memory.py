"""Out of memory: halve the batch, say so, go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# What PyTorch says on the CPU, where it has no exception of its own.
_CPU_MESSAGES = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


@dataclass
class BatchSize:
    """A batch size that shrinks when memory runs out, and stays small for the rest of the case.

    Attributes:
        name: the argument that sets it, for messages.
        size: at present, 1 or more.
    """

    name: str
    size: int

    def halve(self, error: BaseException) -> None:
        """Go on with half the size, rounded down, and log it; at size 1 raise `error` again, with advice."""
        if self.size == 1:
            advice = (
                f"out of memory although `{self.name}` is down to 1: use a smaller variant of the model, a device with "
                "more memory, output='label_map', or device='cpu' for the output"
            )
            if hasattr(error, "add_note"):  # Python 3.11 and later
                error.add_note(advice)
            else:
                logger.error(advice)
            raise error
        self.size //= 2
        logger.warning("out of memory: going on with %s=%d (%s)", self.name, self.size, _first_line(error))


def run_batched(
    items: Sequence[T], batch: BatchSize, call: Callable[[Sequence[T]], R], *, cost: int = 1
) -> Iterator[R]:
    """Results of `call` for `items` in batches; a batch that runs out of memory is done again in smaller ones.

    Args:
        items: to work on.
        batch: how much fits into one call; lowered in place.
        call: takes some items.
        cost: how much of `batch` one item takes; one item is always tried.

    Raises:
        Exception: of `call`; running out of memory only where a single item does.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + max(1, batch.size // cost)]
        failure = None
        try:
            result = call(chunk)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
            # Its frames hold the tensors that did not fit.
            failure = error.with_traceback(None)
        if failure is None:
            start += len(chunk)
            yield result
            continue
        if len(chunk) == 1 and cost > 1:
            raise failure  # a smaller batch of what makes up the cost may help
        batch.size = min(batch.size, len(chunk) * cost)
        batch.halve(failure)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(message in text for message in _CPU_MESSAGES)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
