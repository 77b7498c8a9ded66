"""What a cell prints, and why it failed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

_LONGEST = 500


@contextlib.contextmanager
def logged(file: Path) -> Iterator[None]:
    """Within, everything that this process and its children print goes to the end of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    kept = os.dup(1), os.dup(2)
    try:
        with file.open("ab") as stream:
            stream.write(f"===== {datetime.now().astimezone().isoformat(timespec='seconds')} =====\n".encode())
            stream.flush()
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        yield
    finally:
        _flush()
        for number, before in enumerate(kept, start=1):
            os.dup2(before, number)
            os.close(before)


def note(file: Path, text: str) -> None:
    """Add a text to a log, after everything that was printed so far."""
    _flush()
    with file.open("ab") as stream:
        stream.write(text.rstrip("\n").encode() + b"\n")


def reason(error: BaseException) -> str:
    """The first cause of an error in one line: MONAI wraps what a component raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_LONGEST] if text else type(error).__name__


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
