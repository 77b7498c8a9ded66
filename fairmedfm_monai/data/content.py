"""Keys that depend on content alone: of image files, transforms and encoders."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import inspect
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

# State that changes with use, or says where and not what: random states, what a reader read last, tracing, the device.
_VOLATILE = frozenset({"R", "filenames", "has_series", "device", "_tracing"})
_LINKED = (".mhd", ".nhdr", ".hdr")  # headers whose voxels lie in a file of the same stem
_HASH_THREADS = 4
_BLOCK = 1000  # files per entry into the database
_AS_TEXT = (enum.Enum, os.PathLike, np.generic, np.dtype, torch.dtype, torch.device)
_CONTAINERS = (Mapping, list, tuple, set, frozenset, np.ndarray, torch.Tensor)
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


def describe_object(value: Any) -> Any:
    """What an object is, as JSON that is equal in every process for equal settings.

    Meant for transforms: class names and attributes, recursively; arrays by hash, functions by name and byte code.
    An object with a text attribute ``cache_key`` is described by it alone.
    """
    return _describe(value, ())


def _describe(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return repr(value)
    if id(value) in above:
        return "(itself)"
    above = (*above, id(value))
    if isinstance(value, _CONTAINERS):
        return _describe_container(value, above)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if inspect.isroutine(value):
        return _describe_function(value, above)
    return _describe_instance(value, above)


def _describe_container(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(value)
        return [array.dtype.str, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(key): _describe(value[key], above) for key in sorted(value, key=str)}
    items = [_describe(item, above) for item in value]
    return items if isinstance(value, (list, tuple)) else sorted(items, key=json.dumps)


def _describe_function(function: Callable[..., Any], above: tuple[int, ...]) -> Any:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    code = getattr(function, "__code__", None)
    owner = getattr(function, "__self__", None)
    if code is None:
        return [name, None if inspect.ismodule(owner) else _describe(owner, above)]
    constants = [repr(constant) for constant in code.co_consts if not inspect.iscode(constant)]
    closure = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    defaults = getattr(function, "__defaults__", None)
    parts = _describe([closure, defaults, owner], above)
    return [name, code.co_code.hex(), constants, list(code.co_names), parts]


def _describe_instance(value: Any, above: tuple[int, ...]) -> Any:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    key = getattr(value, "cache_key", None)
    if isinstance(key, str):
        return [name, key]
    if isinstance(value, _AS_TEXT):
        return [name, str(value)]
    if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
        return name
    state = getattr(value, "__dict__", None)
    if state:
        return [name, {key: _describe(state[key], above) for key in sorted(state) if key not in _VOLATILE}]
    try:
        return [name, _describe(value.__reduce_ex__(2)[1:3], above)]  # state that lives in C, e.g. of a partial
    except TypeError:
        return name


def encoder_key(encoder: torch.nn.Module) -> str:
    """SHA-256 over an encoder's structure, its ``cache_key`` where it has one, and every weight it holds now."""
    digest = hashlib.sha256(f"{type(encoder).__module__}.{encoder!r}".encode())
    digest.update(str(getattr(encoder, "cache_key", "")).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
