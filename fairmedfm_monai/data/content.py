"""Keys of image files that depend on their content alone."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LINKED = (".mhd", ".nhdr", ".hdr")  # headers whose voxels lie in a file of the same stem
_HASH_THREADS = 4
_BLOCK = 1000  # files per entry into the database
_LOGGER = logging.getLogger(__name__)


def files_of(path: Path) -> list[Path]:
    """The files that an image consists of: itself, all of a folder, or a header and its neighbours of equal stem."""
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file())
    if path.suffix.lower() in _LINKED:
        return sorted(entry for entry in path.parent.iterdir() if entry.stem == path.stem)
    return [path]


def content_key(path: Path) -> str:
    """SHA-256 of an image's bytes (of names and bytes, where it consists of several files).

    Raises:
        OSError: it cannot be read.
    """
    files = files_of(path)
    if files == [path]:
        return _file_hash(path)
    parts = [f"{file.name}:{_file_hash(file)}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _stamp(path: Path) -> str:
    """Size and times of an image's files: as long as they stay, so does the content."""
    stats = [(file.name, file.stat()) for file in files_of(path)]
    return ";".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}" for name, stat in stats)


class ContentKeys:
    """Content keys of files, remembered in a small database so that an unchanged file is hashed once.

    Args:
        database: SQLite file; made when it is not there; may be shared by processes. Where it cannot be used (some
            network drives), every file is hashed every time.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    def of(self, paths: Sequence[str]) -> list[str | None]:
        """Content key per path; None where the file cannot be read."""
        absolute = [os.path.abspath(path) for path in paths]
        known = self._known(set(absolute))
        keys: list[str | None] = []
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            for start in range(0, len(absolute), _BLOCK):
                found = list(pool.map(lambda path: _stamped_key(path, known), absolute[start : start + _BLOCK]))
                keys += [key for _, _, key in found]
                self._remember([row for row in found if row[2] and known.get(row[0]) != row[1:]])
        return keys

    def _known(self, paths: set[str]) -> dict[str, tuple[str, str]]:
        try:
            with contextlib.closing(self._connect()) as connection:
                rows = connection.execute("SELECT path, stamp, key FROM files")
                return {path: (stamp, key) for path, stamp, key in rows if path in paths}
        except sqlite3.Error as error:
            _LOGGER.warning("%s cannot be used (%s): every image is hashed anew", self._database, error)
            return {}

    def _remember(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        if not rows:
            return
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        self._database.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._database, timeout=60)
        connection.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT, key TEXT)")
        return connection


def _stamped_key(path: str, known: Mapping[str, tuple[str, str]]) -> tuple[str, str, str | None]:
    try:
        stamp = _stamp(Path(path))
        if path in known and known[path][0] == stamp:
            return path, stamp, known[path][1]
        return path, stamp, content_key(Path(path))
    except OSError:
        return path, "", None
