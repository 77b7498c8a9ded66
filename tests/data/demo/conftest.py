"""A small procedural chest: the same code paths as the real scan, no network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fairmedfm_monai.data.demo.phantom import make_phantom
from fairmedfm_monai.data.demo.radiograph import Projector
from fairmedfm_monai.data.demo.scan import Scan


@pytest.fixture(scope="session")
def phantom() -> Scan:
    return make_phantom((80, 80, 64))


@pytest.fixture(scope="session")
def projector(phantom: Scan) -> Projector:
    return Projector(phantom)


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Relative path -> sha256 of every file of a folder."""

    def of(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return of
