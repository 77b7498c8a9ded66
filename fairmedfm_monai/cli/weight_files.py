"""Which weight and tokenizer files the models expect, which are there, and fetching them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from fairmedfm_monai.catalog import Row
from fairmedfm_monai.data.home import home
from fairmedfm_monai.networks.integrity import WeightsError
from fairmedfm_monai.networks.tokenizer_files import (
    SETTINGS,
    VOCABULARIES,
    fetch_tokenizer,
    find_vocabulary,
)

SHIPPED = "in the package"


def status(row: Row, variant: str | None = None) -> list[str]:
    """One line per weight file of a model: variant, file, whether it is there, where it comes from; then its tokenizer.

    Args:
        row: the model.
        variant: only this one.

    Raises:
        ValueError: for a variant that the catalog does not list.
    """
    if variant is not None and variant not in row.variants:
        msg = f"`variant` must be one of {row.name!r} in the catalog, but got {variant!r}: {', '.join(row.variants)}"
        raise ValueError(msg)
    lines = [f"{row.name}: weights {row.weights_licence}, commercial use {row.commercial_use}"]
    files = {name: entry for name, entry in row.weights["files"].items() if variant in {None, name}}
    for name, entry in files.items():
        if row.weights["source"].startswith(SHIPPED):
            lines.append(f"  {name:28} {entry['file']:28} shipped with the package")
            continue
        path = home() / "weights" / entry["file"]
        lines.append(_line(name, entry["file"], path if path.is_file() else None, path, _origin(row, entry)))
    others = len(row.variants) - len(row.weights["files"])
    if others and variant is None:
        lines.append(f"  and {others} more variants, found by `weights fetch --fm {row.name} --variant NAME`")
    return lines + _tokenizer_lines(row)


def _origin(row: Row, entry: dict[str, str]) -> str:
    return entry.get("url") or row.weights["source"]


def _line(name: str, file: str, found: Path | None, place: Path, origin: str) -> str:
    return f"  {name:28} {file:28} {'found' if found else 'missing':8} {found or place}  (from {origin})"


def _tokenizer_lines(row: Row) -> list[str]:
    """Two lines of a model whose tokenizer has files of its own: the vocabulary, and the settings beside it."""
    tokenizer = row.weights.get("tokenizer")
    if tokenizer is None:
        return []
    place, origin = home() / "weights" / tokenizer["folder"], f"the hub's {tokenizer['repo']}"
    vocabularies, settings = VOCABULARIES[tokenizer["class"]], SETTINGS[:1]
    return [
        _line("tokenizer", " or ".join(vocabularies), find_vocabulary(place, vocabularies), place, origin),
        _line("its settings", settings[0], find_vocabulary(place, settings), place, f"{origin}, where it has one"),
    ]


def fetch(row: Row, variant: str | None = None) -> str:
    """Download the weights of a variant and the model's tokenizer into the cache folder, or find them there.

    Args:
        row: the model.
        variant: by default the catalog's.

    Returns:
        The files, separated by commas.

    Raises:
        ValueError: for weights that are shipped with the package, or an unknown variant.
        OSError: if a file cannot be had, naming it, its folder and its source; what could be had is there.
    """
    if row.weights["source"].startswith(SHIPPED):
        msg = f"the weights of {row.name} are shipped with the package: nothing to fetch"
        raise ValueError(msg)
    module, name = row.network.rsplit(".", 1)
    network = getattr(importlib.import_module(module), name)
    from fairmedfm_monai.networks.weights import fetch_weights, find_weights

    source = network.source(variant or row.default_variant)
    steps: list[Callable[[], Path]] = [lambda: find_weights(source) or fetch_weights(source)]
    tokenizer = row.weights.get("tokenizer")
    if tokenizer is not None:
        names = VOCABULARIES[tokenizer["class"]]
        steps.append(lambda: fetch_tokenizer(tokenizer["repo"], tokenizer["folder"], names))
    return _run(steps)


def _run(steps: list[Callable[[], Path]]) -> str:
    """Paths that the steps give; all are tried before the first failure is told."""
    found, problems = [], []
    for step in steps:
        try:
            found.append(str(step()))
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        msg = "\n".join([*problems, *(f"there is: {path}" for path in found)])
        raise OSError(msg)
    return ", ".join(found)
