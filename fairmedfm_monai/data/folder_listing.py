"""Which paths of a manifest are there, by listing folders: one look at a folder instead of one per file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fairmedfm_monai.data.problems import Problem, examples

_THREADS = 8  # a network drive answers many questions in the time of one
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def is_outside(path: str) -> bool:
    """Whether a path is absolute (also by Windows's rules) or goes up by ``..``."""
    if path.startswith(("/", "\\", "~/")) or _DRIVE.match(path):
        return True
    return ".." in path and ".." in re.split(r"[\\/]", path)


@dataclass(frozen=True)
class _Fault:
    """Why a folder cannot be listed: the link or folder that is at fault, and its kind."""

    kind: str  # broken_link, denied
    place: str


class FolderListing:
    """The entries of all folders that some paths lie in.

    Args:
        root: the dataset folder.
        paths: relative paths.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self._root = root
        self._split = {path: os.path.split(os.path.normpath(path)) for path in paths}
        folders = list(dict.fromkeys(folder for folder, _ in self._split.values()))
        with ThreadPoolExecutor(_THREADS) as pool:
            shares = pool.map(self._list_all, (folders[start::_THREADS] for start in range(_THREADS)))
            self._names: dict[str, set[str] | OSError] = {name: found for share in shares for name, found in share}
        self._faults = {name: self._fault(name, found) for name, found in self._names.items() if _failed(found)}

    def lacks(self, path: str) -> bool:
        """Whether a path is missing; False where a fault of `problems` hides it."""
        folder, name = self._split[path]
        names = self._names[folder]
        if isinstance(names, OSError):
            return self._faults[folder] is None
        return name not in names

    def problems(self) -> list[Problem]:
        """Each broken link and each folder that may not be read, told once with the number of paths behind it."""
        behind: dict[_Fault, int] = {}
        for folder, _ in self._split.values() if any(self._faults.values()) else ():
            fault = self._faults.get(folder)
            if fault is not None:
                behind[fault] = behind.get(fault, 0) + 1
        broken = [self._broken(fault.place, count) for fault, count in behind.items() if fault.kind == "broken_link"]
        denied = {fault.place: count for fault, count in behind.items() if fault.kind == "denied"}
        if denied:
            message = (
                f"{len(denied)} folders may not be read ({sum(denied.values())} files in them): {examples(denied)}; "
                "get the right to read them (ls -l shows the owner)"
            )
            broken.append(Problem("denied", message))
        return broken

    def hint(self, missing: Sequence[str]) -> str:
        """What to know about missing paths: folders that are not there, links they go through, backslashes."""
        parts = []
        gone = {folder for folder, _ in (self._split[path] for path in missing) if _failed(self._names[folder])}
        if gone:
            parts.append(f"{len(gone)} folders are not there: {examples(sorted(gone))}")
        tops = sorted({path.split("/", 1)[0] for path in missing})
        links = [f"{top!r} is a link to {_target(self._root / top)}" for top in tops if (self._root / top).is_symlink()]
        parts += [f"{links[0]}; is that the right folder level, and all of it downloaded?"] if links else []
        if os.sep == "/" and any("\\" in path for path in missing):
            parts.append("write '/' between folders, not '\\'")
        return f" ({'; '.join(parts)})" if parts else ""

    def _list_all(self, folders: Sequence[str]) -> list[tuple[str, set[str] | OSError]]:
        return [(folder, self._list(folder)) for folder in folders]

    def _list(self, folder: str) -> set[str] | OSError:
        try:
            with os.scandir(f"{self._root}/{folder}") as entries:
                # A link is there only if what it points to is.
                return {entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)}
        except OSError as error:
            return error

    def _fault(self, folder: str, error: object) -> _Fault | None:
        place = ""
        for part in folder.split(os.sep):
            place = os.path.join(place, part)
            path = self._root / place
            if path.is_symlink() and not path.exists():
                return _Fault("broken_link", place)
        return _Fault("denied", folder or ".") if isinstance(error, PermissionError) else None

    def _broken(self, place: str, count: int) -> Problem:
        link = self._root / place
        message = (
            f"the link {place!r} points to {_target(link)}, which is not there: {count} files behind it cannot be "
            "reached. Mount that drive or move the data back, or point the link to where they are now: "
            f"ln -sfn /path/of/the/data {link}"
        )
        return Problem("broken_link", message)


def _failed(found: object) -> bool:
    return isinstance(found, OSError)


def _target(link: Path) -> str:
    return os.path.normpath(os.path.join(link.parent, os.readlink(link)))
