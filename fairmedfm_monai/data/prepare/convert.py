"""Make the files that a dataset folder cannot reference: in parallel, each whole or not at all, resumable."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fairmedfm_monai.data.content import files_of
from fairmedfm_monai.data.prepare.made import Made

JOURNAL = "conversions.jsonl"
_HIDDEN = ".partial-"
_QUEUED = 4  # files per process that wait in line
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class ConversionStoppedError(OSError):
    """The disk is full or read-only, or a process was killed: what is done is kept."""


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a file, made whole, and from what."""

    target: str
    sha256: str
    recipe: str
    inputs: str


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_files(
    wanted: Sequence[Made], *, source: Path, folder: Path, journal: Path, workers: int, progress: bool
) -> dict[str, str]:
    """Make every file that is not there yet.

    A file counts as there when the journal has it, made the same way from inputs of the same size and time, and its
    bytes still have the recorded hash. Others are made under a hidden name and renamed when whole, so that a run may be
    killed at any moment and started again.

    Args:
        wanted: the files.
        source: the release folder.
        folder: the dataset folder.
        journal: text file with one line per finished file; appended to.
        workers: processes; 1 makes the files in this one.
        progress: show a bar on stderr.

    Returns:
        Target -> reason, of files that could not be made because their input is damaged.

    Raises:
        ConversionStoppedError: the disk is full or read-only, or a process was killed.
    """
    from tqdm import tqdm

    unique = {made.target: made for made in wanted}
    _clear_after_a_kill(folder, unique, journal)
    done = verified(unique.values(), source=source, folder=folder, journal=journal)
    open_jobs = [made for target, made in unique.items() if target not in done]
    failed: dict[str, str] = {}
    bar = tqdm(total=len(unique), initial=len(done), desc="converting", unit="file", disable=not progress)
    with bar, journal.open("a", encoding="utf-8") as log:
        for made, result in _run(open_jobs, source, folder, workers):
            bar.update()
            if isinstance(result, Entry):
                log.write(json.dumps(vars(result)) + "\n")
                log.flush()
            else:
                failed[made.target] = result
    return failed


def _clear_after_a_kill(folder: Path, targets: Iterable[str], journal: Path) -> None:
    """Remove half-written files, and end the line that the journal may have been cut off in."""
    for parent in {(folder / target).parent for target in targets}:
        for half in parent.glob(f"{_HIDDEN}*"):
            half.unlink()
    if journal.is_file() and not journal.read_bytes().endswith(b"\n"):
        with journal.open("a", encoding="utf-8") as log:
            log.write("\n")


def verified(wanted: Iterable[Made], *, source: Path, folder: Path, journal: Path) -> dict[str, str]:
    """Target -> SHA-256 of the files that the journal has and that are there with these bytes."""
    entries = {entry.target: entry for entry in _read_journal(journal)}
    found = {}
    for made in wanted:
        entry = entries.get(made.target)
        path = folder / made.target
        if entry is None or not path.is_file() or entry.recipe != made.recipe():
            continue
        if entry.inputs == _stamp(made, source) and file_sha256(path) == entry.sha256:
            found[made.target] = entry.sha256
    return found


def _read_journal(journal: Path) -> Iterator[Entry]:
    if not journal.is_file():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            yield Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue  # the last line of a run that was killed while it wrote: its file is made again


def _stamp(made: Made, source: Path) -> str:
    """Sizes and times of the inputs: as long as they stay, so does what is made from them."""
    try:
        stats = [(file.name, file.stat()) for name in made.inputs for file in files_of(source / name)]
    except OSError:
        return ""
    text = ";".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(text.encode()).hexdigest()


def _run(jobs: Sequence[Made], source: Path, folder: Path, workers: int) -> Iterator[tuple[Made, Entry | str]]:
    if workers <= 1 or len(jobs) < 2:
        for made in jobs:
            yield made, _make(made, source, folder)
        return
    # Fresh processes: a fork would inherit the locks of whatever threads the caller has.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        queue = iter(jobs)
        running: dict[Future[Any], Made] = {}
        try:
            while True:
                for made in islice(queue, workers * _QUEUED - len(running)):
                    running[pool.submit(_make, made, source, folder)] = made
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            msg = "a converting process was killed (out of memory?). What is done is kept: use fewer --workers"
            raise ConversionStoppedError(errno.ECANCELED, msg) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make(made: Made, source: Path, folder: Path) -> Entry | str:
    """Make one file; the journal's line, or why the input cannot be converted."""
    target = folder / made.target
    hidden = target.with_name(f"{_HIDDEN}{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made.make(source, hidden)
        sha256 = file_sha256(hidden)
        os.replace(hidden, target)
    except Exception as error:  # a damaged file can fail in any way
        hidden.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FATAL and not _is_input(error, source):
            msg = f"{target}: {error.strerror}. What is done is kept: make room (or choose another folder), run again"
            raise ConversionStoppedError(error.errno, msg) from error
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:300]}"
    return Entry(made.target, sha256, made.recipe(), _stamp(made, source))


def _is_input(error: OSError, source: Path) -> bool:
    return error.filename is not None and str(error.filename).startswith(f"{source}{os.sep}")
