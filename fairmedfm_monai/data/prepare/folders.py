"""The release folder: the right level of it, and the files in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairmedfm_monai.data.problems import DatasetError, Problem, examples

_LEVELS = 2  # how far above and below the given folder the right one is looked for, to say where it is


def check_release(source: str | Path, needs: Iterable[str], layout: Mapping[str, str]) -> Path:
    """The release folder, once everything that must be in it is there.

    Args:
        source: what the user gave.
        needs: files or folders at its top, possibly with subfolders; ``a|b`` means either; ``*`` stands for any text.
        layout: what the release consists of, for the message.

    Raises:
        DatasetError: it is not a folder, it is the wrong level of the release (then the right one is named), or
            something is missing.
    """
    folder = Path(source).expanduser().absolute()
    needs = list(needs)
    if not folder.is_dir():
        what = "a file; unpack it and give the folder" if folder.is_file() else "not there"
        raise DatasetError(folder, [Problem("no_release", f"`source` must be the release folder, but it is {what}")])
    missing = [need for need in needs if _find(folder, need) is None]
    if not missing:
        return folder
    listing = "".join(f"\n      {name}: {meaning}" for name, meaning in layout.items())
    right = next((other for other in _neighbours(folder) if all(_find(other, need) for need in needs)), None)
    if right is not None:
        message = f"this is the wrong level of the release: give {right}"
    else:
        there = examples(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        wanted = ", ".join(need.replace("|", " or ") for need in missing)
        message = f"the release folder lacks {wanted}; it holds {there}. Expected layout:{listing}"
    raise DatasetError(folder, [Problem("no_release", message)])


def one_of(folder: Path, names: str) -> Path:
    """The first entry that is there; ``names`` as in `check_release`.

    Raises:
        DatasetError: there is none.
    """
    found = _find(folder, names)
    if found is None:
        message = f"the release folder lacks {names.replace('|', ' or ')}"
        raise DatasetError(folder, [Problem("missing_file", message)])
    return found


def index_files(root: Path, *, below: Iterable[str] = (".",), suffixes: tuple[str, ...]) -> dict[str, str]:
    """File name -> path relative to ``root``, of all files with a suffix anywhere below some folders.

    Raises:
        DatasetError: two files of one name.
    """
    found: dict[str, str] = {}
    twice: list[str] = []
    for start in below:
        for folder, folders, files in os.walk(root / start):
            folders.sort()
            for name in files:
                if name.lower().endswith(suffixes) and not name.startswith("."):
                    path = os.path.relpath(os.path.join(folder, name), root)
                    if found.setdefault(name, Path(path).as_posix()) != Path(path).as_posix():
                        twice.append(name)
    if twice:
        message = f"{len(twice)} file names stand in more than one folder: {examples(sorted(twice))}"
        raise DatasetError(root, [Problem("duplicate_file", message)])
    return found


def _find(folder: Path, names: str) -> Path | None:
    for name in names.split("|"):
        found = sorted(folder.glob(name)) if "*" in name else [folder / name]
        found = [path for path in found if path.exists()]
        if found:
            return found[0]
    return None


def _neighbours(folder: Path) -> Iterable[Path]:
    level = [folder]
    for _ in range(_LEVELS):
        level = [entry for above in level for entry in _subfolders(above)]
        yield from level
    yield from list(folder.parents)[:_LEVELS]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())[:200]
    except OSError:
        return []
