"""Encodings on disk: small finished shards, and one file in a dataset's own order that is read by memory map."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

_LOGGER = logging.getLogger(__name__)


def joint_key(keys: Iterable[str]) -> str:
    """One key for a sequence of keys."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


class FeatureStore:
    """Encodings of one encoder behind one transform, by the content key of the image.

    Layout: ``shards/<id>/keys.json`` and ``shards/<id>/<entry>.npy`` (float32, one row per key); ``views/<id>.npy``;
    ``locks/``. Shards and views appear by one rename, so a process that is killed leaves nothing half-written that
    counts, and processes that write the same content at once do no harm.

    Args:
        folder: where it lives; made when it is not there.
        entry: name of the encoding that is asked for; shards without it are passed over.
    """

    def __init__(self, folder: Path, entry: str) -> None:
        self.folder = folder
        self.entry = entry
        self._seen: set[str] = set()
        self._rows: dict[str, tuple[str, int]] = {}
        for name in ("shards", "views", "locks", "scratch"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def refresh(self) -> None:
        """Learn of shards that were finished since the last call, by this or another process."""
        for name in sorted(set(os.listdir(self.folder / "shards")) - self._seen):
            self._seen.add(name)
            try:
                keys = json.loads((self.folder / "shards" / name / "keys.json").read_text())
                rows = len(self._open(name)) if (self.folder / "shards" / name / f"{self.entry}.npy").exists() else 0
            except (OSError, ValueError) as error:
                _LOGGER.warning("shard %s of the feature cache is damaged and left out: %s", name, error)
                continue
            self._rows.update((key, (name, row)) for row, key in enumerate(keys[:rows]))

    def write(self, keys: Sequence[str], entries: Mapping[str, np.ndarray]) -> None:
        """Add the encodings of some images.

        Args:
            keys: content keys, N.
            entries: entry name -> float32 array of shape (N, ...).
        """
        scratch = Path(tempfile.mkdtemp(dir=self.folder / "scratch"))
        for name, array in entries.items():
            _save(scratch / f"{name}.npy", array)
        _write_text(scratch / "keys.json", json.dumps(list(keys)))
        name = scratch.name
        os.rename(scratch, self.folder / "shards" / name)
        self.refresh()

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold a lock by name among processes; the system frees it when its holder dies.

        Yields:
            Whether the lock is held; False only when another process has it and `wait` is False.
        """
        lock = FileLock(self.folder / "locks" / f"{name}.lock")
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def view(self, keys: Sequence[str]) -> Path | None:
        """File that holds exactly these encodings in this order, None when it was not built yet."""
        file = self.folder / "views" / f"{self.entry}-{joint_key(keys)}.npy"
        return file if file.exists() else None

    def build_view(self, keys: Sequence[str]) -> Path:
        """Copy these encodings into one file in this order, shard by shard, and return the file.

        Raises:
            KeyError: one of them is not in the store.
        """
        file = self.folder / "views" / f"{self.entry}-{joint_key(keys)}.npy"
        places: dict[str, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            shard, row = self._rows[key]
            places.setdefault(shard, []).append((position, row))
        shape = self._open(next(iter(places))).shape[1:]
        descriptor, scratch = tempfile.mkstemp(dir=self.folder / "scratch")
        os.close(descriptor)
        view = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.float32, shape=(len(keys), *shape))
        for shard, pairs in places.items():
            positions, rows = np.array(pairs).T
            view[positions] = self._open(shard)[rows]
        view.flush()
        del view
        os.replace(scratch, file)
        return file

    def clear_scratch(self, *, older_than: float) -> None:
        """Delete what killed processes left, when it was last touched before a time (seconds since 1970)."""
        for entry in (self.folder / "scratch").iterdir():
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < older_than:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _open(self, shard: str) -> np.ndarray:
        return np.load(self.folder / "shards" / shard / f"{self.entry}.npy", mmap_mode="r", allow_pickle=False)


def _save(file: Path, array: np.ndarray) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())  # a rename may reach the disk before the bytes do


def _write_text(file: Path, text: str) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
