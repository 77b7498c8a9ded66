"""Where a run writes and how it ends: output folders and exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairmedfm_monai.reporting.files import AGGREGATE_FILES, PREDICTIONS_FILE, write_atomic

__all__ = ["EXIT_FAILED_CASES", "FINISHED_MARKERS", "exit_on_failures", "free_output_dir", "write_atomic"]

EXIT_FAILED_CASES = 4
"""Exit status of a run that finished and wrote everything, but could not use every case."""

FINISHED_MARKERS = (PREDICTIONS_FILE, *AGGREGATE_FILES, "predictions.csv", "predictions.json", "*.nii", "*.nii.gz")
"""Files (glob patterns) by which a folder is known to hold a run. Logs and configs beside them do not count."""


def free_output_dir(path: str | Path, overwrite: bool = False, *, markers: Sequence[str] = FINISHED_MARKERS) -> str:
    """Choose the folder that a run may write to, so that a finished run is never overwritten.

    The answer depends only on the files that are there, and nothing is created: all processes of a run that ask
    before it writes get the same folder, without talking to each other.

    Args:
        path: the wanted folder, e.g. ``eval``.
        overwrite: take ``path`` even when it holds a run.
        markers: glob patterns of files that show that a folder holds a run.

    Returns:
        ``path`` itself when it is free, else the first free one of ``path-01``, ``path-02``, ...

    Raises:
        NotADirectoryError: when ``path`` is a file.
    """
    wanted = Path(path)
    if wanted.exists() and not wanted.is_dir():
        msg = f"`output_dir` must be a folder (existing or new), but {wanted} is a file; give another --output_dir"
        raise NotADirectoryError(msg)
    if overwrite or not _holds_run(wanted, markers):
        return str(wanted)
    number = 1
    while _holds_run(_numbered(wanted, number), markers):
        number += 1
    return str(_numbered(wanted, number))


def _numbered(wanted: Path, number: int) -> Path:
    return wanted.with_name(f"{wanted.name}-{number:02d}")


def _holds_run(folder: Path, markers: Sequence[str]) -> bool:
    return folder.is_dir() and any(next(folder.glob(marker), None) is not None for marker in markers)


def exit_on_failures(evaluator: Any) -> None:
    """End the program with status 4 when an evaluation had to leave out cases; put it last in ``run`` or ``finalize``.

    Everything is on disk by then; the status is for the shell or pipeline that started the run.

    Args:
        evaluator: the engine that carried a :class:`~fairmedfm_monai.handlers.fairness.FairnessHandler`.

    Raises:
        SystemExit: status 4, after the failed cases were printed, when there is at least one.
    """
    failed: list[str] = list(getattr(evaluator.state, "failed_cases", []))
    if not failed:
        return
    shown = "\n  ".join(failed[:20]) + (f"\n  ... and {len(failed) - 20} more" if len(failed) > 20 else "")
    where = getattr(evaluator.state, "output_dir", None)
    print(  # noqa: T201 - the last words of a command-line run
        f"{len(failed)} case(s) could not be used; all other results are complete"
        f"{f' and in {where}' if where else ''}:\n  {shown}\nExit status {EXIT_FAILED_CASES}."
    )
    raise SystemExit(EXIT_FAILED_CASES)
