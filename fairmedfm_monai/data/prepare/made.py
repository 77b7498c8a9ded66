"""A file that must be made from the release: converted once, without loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Made:
    """A file of the dataset folder that does not exist in the release as it is.

    Attributes:
        target: path inside the dataset folder, e.g. ``images/case_1.nii.gz``; its ending decides the format.
        inputs: files or folders of the release that it is made from, relative to the release folder.
        maker: function of a module (it is sent to other processes), called as ``maker(inputs, target, **options)`` with
            absolute paths. It writes ``target`` whole, and raises an error that names the fault of a damaged input.
        options: keyword arguments of the maker; plain values.
    """

    target: str
    inputs: tuple[str, ...]
    maker: Callable[..., None]
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.target

    def recipe(self) -> str:
        """Text that is equal for equal ways of making the file."""
        name = f"{self.maker.__module__}.{self.maker.__qualname__}"
        return json.dumps([name, list(self.inputs), list(map(list, self.options))], sort_keys=True)

    def make(self, source: Path, target: Path) -> None:
        """Write the file."""
        self.maker([source / name for name in self.inputs], target, **dict(self.options))
