"""Write a demo dataset folder: whole or not at all, the same bytes each time."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fairmedfm_monai.data.demo.patients import ATTRIBUTES

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

NOTICE = "semi-synthetic, one anatomy: measures plumbing, not generalisation"
NOTICE_PHANTOM = "procedural phantom, not a patient: the real CT could not be fetched"
NOTICE_LABELS = "organ labels are pseudo-labels (another model's output)"

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def building(output: str | Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its name when the block ends well, and is removed when it does not.

    Raises:
        FileExistsError: ``output`` exists and is not an empty folder.
    """
    target = Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"{target} exists already; delete it or choose another `output`"
        raise FileExistsError(msg)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".partial-{target.name}-"))
    partial.chmod(0o755)
    try:
        yield partial
        if target.exists():
            target.rmdir()
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None) -> list[Result]:
    """``function`` of each item, in order.

    Threads, not processes: numpy, scipy and torch release the interpreter lock, nothing is copied, and a script
    without a main guard may ask for demo data too.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    with one_torch_thread(), ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(function, items))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread per caller inside the block: its own pool under ours would fight for the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV table with the keys of its first row as header."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: object) -> None:
    """A readable JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def labels_notice(scan: Scan) -> str:
    """What a report must say about the organ labels."""
    return NOTICE_LABELS if scan.is_real else "organ labels are the phantom's own shapes"


def card(scan: Scan, *, name: str, title: str, notices: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    """The dataset card of a demo set: what all of them share, and ``fields``."""
    sentences = [NOTICE, *notices, *([] if scan.is_real else [NOTICE_PHANTOM])]
    return {
        "schema": 1,
        "name": name,
        "title": title,
        "unit": "patient",
        "licence": scan.licence,
        "citation": scan.citation,
        "notice": "; ".join(sentences),
        **fields,
        "attributes": ATTRIBUTES,
        "intersections": [["sex", "age"]],
    }
