"""The folder of a cell: what was run there and how it ended, in files alone, so that it outlives every process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairmedfm_monai.reporting.files import write_atomic

State = Literal["done", "failed", "interrupted", "new"]

CELL_FILE, DONE_FILE, FAILED_FILE, LOG_FILE = "cell.json", "done.json", "failed.json", "log.txt"
_TRAINED_FILE = "trained.json"  # in train/: its training came to its end
_TAIL = 40  # lines of the log that failed.json keeps


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Sixteen hex digits for JSON values, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def job_folder(output: str | Path, key: str) -> Path:
    """``<output>/cells/<key>``: cell.json, log.txt, train/, eval/, and at the end done.json or failed.json."""
    return Path(output) / "cells" / key


def lock_file(output: str | Path, key: str) -> Path:
    """The file that is locked while a process runs the cell; its folder is made."""
    file = Path(output) / "locks" / f"{key}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def state(folder: Path, wanted: str) -> State:
    """How the last run of a cell ended.

    Args:
        folder: of the cell.
        wanted: hash of the settings that it is to be run with.

    Returns:
        ``new`` also when other settings were run there: `Job.start` moves their results aside.
    """
    if _read(folder / CELL_FILE).get("hash") != wanted:
        return "new"
    if read_done(folder).get("hash") == wanted:
        return "done"
    return "failed" if read_failed(folder) else "interrupted"


def read_done(folder: Path) -> dict[str, Any]:
    """done.json: ``hash``, ``seconds`` by stage, ``versions``, ``stamps``, ``failed_cases``; empty when not there."""
    return _read(folder / DONE_FILE)


def read_failed(folder: Path) -> dict[str, Any]:
    """failed.json: ``hash``, ``stage``, ``error``, ``tail`` of the log; empty when not there."""
    return _read(folder / FAILED_FILE)


@dataclass(frozen=True)
class Job:
    """One run of a cell in its folder.

    Attributes:
        folder: of the cell.
        hash: of its settings.
    """

    folder: Path
    hash: str

    @property
    def train_dir(self) -> Path:
        """Where the training writes: model.pt, model.json, progress.pt."""
        return self.folder / "train"

    @property
    def eval_dir(self) -> Path:
        """Where the evaluation writes."""
        return self.folder / "eval"

    @property
    def log(self) -> Path:
        """What the stages print."""
        return self.folder / LOG_FILE

    def start(self, cell: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Make the folder ready: other settings' results move aside, an unfinished evaluation goes, a training stays.

        Args:
            cell: the cell as JSON values.
            settings: what else it is run with.
        """
        if self.folder.exists() and state(self.folder, self.hash) == "new":
            _move_aside(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILED_FILE).unlink(missing_ok=True)
        (self.folder / DONE_FILE).unlink(missing_ok=True)
        if self.eval_dir.exists():
            shutil.rmtree(self.eval_dir)
        _write(self.folder / CELL_FILE, {"cell": dict(cell), "settings": dict(settings), "hash": self.hash})

    @property
    def trained(self) -> float | None:
        """Seconds of the training when it came to its end."""
        seconds = _read(self.train_dir / _TRAINED_FILE).get("seconds")
        return None if seconds is None or not (self.train_dir / "model.pt").is_file() else float(seconds)

    def mark_trained(self, seconds: float) -> None:
        """Remember that the training came to its end, so that a cell that is killed later does not train again."""
        _write(self.train_dir / _TRAINED_FILE, {"seconds": seconds})

    def finish(self, content: Mapping[str, Any]) -> None:
        """Write done.json, the last file of a cell."""
        _write(self.folder / DONE_FILE, {"hash": self.hash, **content})

    def fail(self, stage: str, error: str) -> None:
        """Write failed.json with the end of the log."""
        _write(
            self.folder / FAILED_FILE,
            {"hash": self.hash, "stage": stage, "error": error, "tail": _tail(self.log)},
        )


def _move_aside(folder: Path) -> Path:
    number = 1
    while (target := folder.with_name(f"{folder.name}~{number}")).exists():
        number += 1
    return folder.rename(target)


def _tail(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as stream:  # logs of long trainings are not read whole
        stream.seek(max(0, file.stat().st_size - 65536))
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL:])


def _read(file: Path) -> dict[str, Any]:
    """The JSON object of a file; empty when it is not there or none: the cell is then run again."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomic(file, lambda path: path.write_text(text, encoding="utf-8"))
