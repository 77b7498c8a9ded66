"""Is a weight file the one that was published, and whole? Answered from its bytes, before anything unpacks it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import IO

# What servers send in place of a file, by its first characters.
_STAND_INS = (
    (("<!doctype", "<html", "<?xml"), "a web page, as links send that want a login or a click first"),
    (('{"', "{\n", "[{"), "a text (JSON), as servers send that refuse a download"),
    (("version https://git-lfs",), "a pointer of Git LFS, which `git lfs pull` replaces by the file"),
)
_LENGTH = 8  # bytes before the header of a .safetensors file, which tell the header's length


class WeightsError(RuntimeError):
    """A weight file is missing, damaged, unsafe or of another model."""


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 of the rest of an open file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def check_digest(path: Path, expected: str | None) -> None:
    """Compare the SHA-256 of ``path`` with ``expected``, whole or its first digits (None = not known: no check).

    Raises:
        WeightsError: if they differ.
    """
    if expected is None:
        return
    with path.open("rb") as file:
        actual = sha256_of(file)
    if not actual.startswith(expected.lower()):
        seen = damage(path)
        also = f" (it is {seen})" if seen else ""
        msg = (
            f"{path} is not the published file: SHA-256 {actual}, expected {expected}{also}. Delete it and "
            "fetch it again; to use it nevertheless, give `weights` its path"
        )
        raise WeightsError(msg)


def check_whole(path: Path) -> None:
    """Refuse a file that :func:`damage` finds something wrong with.

    Raises:
        WeightsError: naming the file and what is wrong.
    """
    seen = damage(path)
    if seen:
        msg = f"{path} cannot be read: it is {seen}; delete it and fetch it again"
        raise WeightsError(msg)


def damage(path: Path) -> str | None:
    """What is plainly wrong with a weight file, as a noun; None = nothing that its length and first bytes show.

    Empty files, web pages and other texts in place of a file, and zip archives (as ``torch.save`` writes) and
    ``.safetensors`` files that end too early.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file (0 bytes)"
    if b"\0" not in head:
        start = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n").lower()
        stand_in = next((noun for starts, noun in _STAND_INS if start.startswith(starts)), None)
        if stand_in:
            return stand_in
    if path.suffix == ".safetensors":
        return _cut_safetensors(path, size)
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"an archive without its end, cut off after {size} bytes"
    return None


def _cut_safetensors(path: Path, size: int) -> str | None:
    """What is wrong with the length of a ``.safetensors`` file: 8 bytes, a JSON header of that length, the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH + length:
            return f"no .safetensors file, or cut off in its header ({size} bytes)"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "no .safetensors file: its header is not readable"
    expected = _LENGTH + length + max(ends, default=0)
    return None if size == expected else f"of {size} bytes where its header promises {expected}"
