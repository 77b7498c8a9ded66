"""Volumes in the raw layout of nnU-Net: ``imagesTr/<case>_0000.nii.gz`` and ``labelsTr/<case>.nii.gz``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fairmedfm_monai.data.prepare.folders import index_files

IMAGES, LABELS = "imagesTr", "labelsTr"
_ENDING = ".nii.gz"
_CHANNEL = "_0000"


def volume_paths(source: Path, top: str, cases: Iterable[str]) -> list[tuple[str, str]]:
    """Paths of image and label map of each case, relative to the release folder.

    Args:
        source: the release folder.
        top: folder inside it that holds ``imagesTr`` and ``labelsTr``; ``.`` for itself.
        cases: names without ending. An image may lack the number of its channel.
    """
    known = index_files(source, below=(f"{top}/{IMAGES}",), suffixes=(_ENDING,))
    start = "" if top == "." else f"{top}/"
    paths = []
    for case in cases:
        bare = f"{case}{_ENDING}"
        numbered = f"{case}{_CHANNEL}{_ENDING}"
        name = bare if bare in known and numbered not in known else numbered
        paths.append((f"{start}{IMAGES}/{name}", f"{start}{LABELS}/{bare}"))
    return paths


def volume_names(source: Path, top: str) -> set[str]:
    """Cases that have an image."""
    known = index_files(source, below=(f"{top}/{IMAGES}",), suffixes=(_ENDING,))
    return {name.removesuffix(_ENDING).removesuffix(_CHANNEL) for name in known}
