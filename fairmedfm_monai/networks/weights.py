"""Where weights come from: a local file first, then the network; or a path, or none (``random``, ``tiny``)."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fairmedfm_monai.networks.checkpoint import (
    State,
    WeightsError,
    check_digest,
    load_checked,
    read_checkpoint,
    strict_keys,
)
from fairmedfm_monai.networks.hub import PAGE, explain, hub_file, offline  # switches the hub's telemetry off
from fairmedfm_monai.networks.integrity import check_whole

__all__ = [
    "KINDS",
    "State",
    "WeightSource",
    "WeightsError",
    "fetch_weights",
    "fill_weights",
    "find_weights",
    "geometry_only",
    "load_checked",
    "read_checkpoint",
    "resolve_weights",
    "seeded",
    "strict_keys",
    "weights_dir",
    "weights_kind",
]

KINDS = ("pretrained", "random", "tiny")


@dataclass(frozen=True)
class WeightSource:
    """Where the ``pretrained`` weights of one model are found.

    Args:
        names: file names looked for in :func:`weights_dir`, the preferred one first.
        page: web page where a person gets the file.
        url: direct link, or "" (the download is stored under its last part, which must be in ``names``).
        repo: Hugging Face repository, or "".
        repo_files: files in ``repo``, best first; stored under the first of ``names`` with the same suffix.
        sha256: file name -> expected digest (or its first digits), where known.
    """

    names: tuple[str, ...]
    page: str
    url: str = ""
    repo: str = ""
    repo_files: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


def weights_kind(weights: str | Path) -> str:
    """``pretrained``, ``random``, ``tiny`` or, for a path, ``file``. The middle two are stamped on every output."""
    return str(weights) if str(weights) in KINDS else "file"


def geometry_only(weights: str | Path) -> str:
    """The value of ``weights`` that builds the same geometry without reading a file: ``tiny`` or ``random``.

    For networks whose whole state is loaded afterwards, such as a trained ``model.pt``.
    """
    return "tiny" if weights_kind(weights) == "tiny" else "random"


def weights_dir() -> Path:
    """Folder of local weight files, ``<FAIRMEDFM_HOME>/weights``."""
    from fairmedfm_monai.data.home import home

    return home() / "weights"


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise a network from ``seed`` and leave torch's own random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fill_weights(module: nn.Module, weights: str | Path, *, source: WeightSource) -> None:
    """Load ``pretrained`` or a file into ``module``; leave ``random`` and ``tiny`` as they were initialised.

    Args:
        module: network of the right geometry, float32.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        source: where ``pretrained`` is found.

    Raises:
        WeightsError: if the file cannot be had, read or does not fit.
    """
    path = resolve_weights(weights, source)
    if path is not None:
        load_checked(module, read_checkpoint(path), origin=str(path))


def find_weights(source: WeightSource) -> Path | None:
    """The local file of ``source`` in :func:`weights_dir`, or None."""
    candidates = (weights_dir() / name for name in source.names)
    return next((path for path in candidates if path.is_file()), None)


def resolve_weights(weights: str | Path, source: WeightSource) -> Path | None:
    """Path of the file behind ``pretrained`` (local first, then the network; digest checked) or behind a path.

    None for ``random`` and ``tiny``. Call it before building a large network, so that a missing file is told at once.

    Raises:
        WeightsError: naming the file and the folder it belongs in, if it can be had neither way.
    """
    if weights_kind(weights) in {"random", "tiny"}:
        return None
    if weights_kind(weights) == "pretrained":
        path = find_weights(source) or fetch_weights(source)
        check_digest(path, source.sha256.get(path.name))
        return path
    path = Path(weights).expanduser()
    if not path.is_file():
        msg = f"`weights`: {path} is no file; give pretrained, random, tiny or the path of a weight file"
        raise WeightsError(msg)
    return path


def fetch_weights(source: WeightSource) -> Path:
    """Download ``source`` into :func:`weights_dir` (link first: its digest is known; then the hub).

    Raises:
        WeightsError: naming the file, the folder and the page, if no way leads to it.
    """
    reasons = []
    if offline():
        reasons.append("downloads are switched off (FAIRMEDFM_OFFLINE or HF_HUB_OFFLINE)")
    else:
        ways = ((_from_link, source.url, _link_reason), (_from_hub, source.repo, explain))
        for download, address, reason in ways:
            if not address:
                continue
            try:
                return download(source)
            except Exception as error:  # whatever a network client raises, the user needs the same advice
                reasons.append(reason(error, address))
    others = f" (or {', '.join(source.names[1:])})" if len(source.names) > 1 else ""
    msg = (
        f"pretrained weights are not here: put {source.names[0]}{others} into {weights_dir()}, or give `weights` its "
        f"path. It comes from {source.url or source.page}. Tried: {'; '.join(['no local file', *reasons])}"
    )
    raise WeightsError(msg)


def _from_link(source: WeightSource) -> Path:
    from torch.hub import download_url_to_file

    name = source.url.rsplit("/", 1)[-1]

    def download(folder: Path) -> Path:
        download_url_to_file(source.url, str(folder / name))
        return folder / name

    return _store(source, name, download)


def _link_reason(error: Exception, url: str) -> str:
    return f"{url} failed ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"


def _from_hub(source: WeightSource) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in source.repo_files:
        name = next(name for name in source.names if name.endswith(Path(file).suffix))
        try:
            return _store(source, name, functools.partial(hub_file, source.repo, file))
        except LocalEntryNotFoundError:  # an EntryNotFoundError too, but it means that the hub was not reached
            raise
        except EntryNotFoundError:
            continue
    msg = f"it has none of {', '.join(source.repo_files)}; look how its files are called at {PAGE.format(source.repo)}"
    raise WeightsError(msg)


def _store(source: WeightSource, name: str, download: Callable[[Path], Path]) -> Path:
    """Download beside the target, check, then move in one step: no half file is ever found under ``name``."""
    target = weights_dir() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        path = download(Path(folder))
        check_digest(path, source.sha256.get(name))
        check_whole(path)
        shutil.move(path, target)
    return target
