"""Whether the weights that a cell needs are on this machine; nothing is downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path

from fairmedfm_monai.bundle.configs.classification_parts import TEXTUAL
from fairmedfm_monai.catalog import Row
from fairmedfm_monai.networks.tokenizer_files import VOCABULARIES, find_vocabulary
from fairmedfm_monai.networks.weights import weights_dir, weights_kind

_SHIPPED = "in the package"


def missing_weights(row: Row, variant: str, usage: str, weights: str) -> str:
    """Which file a cell lacks and how to come by it; empty when nothing is missing.

    Args:
        row: the FM.
        variant: of the FM, ``default`` for the catalog's.
        usage: usages that encode texts need the tokenizer too.
        weights: ``pretrained``, ``random``, ``tiny`` or a path.
    """
    kind = weights_kind(weights)
    if kind == "file":
        return "" if Path(weights).expanduser().is_file() else f"`weights`: {weights} is no file"
    if kind != "pretrained" or row.weights["source"].startswith(_SHIPPED):
        return ""
    chosen = row.default_variant if variant == "default" else variant
    try:
        names = _expected(row, chosen)
    except ValueError as error:  # variants without published weights
        return str(error)
    if not _found(names):
        return f"{' or '.join(names)} not in {weights_dir()}: {_command(row, chosen)}"
    return _missing_tokenizer(row, chosen) if usage in TEXTUAL else ""


def _expected(row: Row, variant: str) -> tuple[str, ...]:
    """File names of which one is enough. The network's own list costs an import: it is asked where it may differ."""
    listed = row.weights["files"].get(variant)
    names = (str(listed["file"]),) if listed else ()
    if names and (_found(names) or not _any_file()):
        return names
    module, kind = row.network.rsplit(".", 1)
    own: tuple[str, ...] = getattr(importlib.import_module(module), kind).source(variant).names
    return tuple(dict.fromkeys((*names, *own)))


def _found(names: tuple[str, ...]) -> bool:
    return any((weights_dir() / name).is_file() for name in names)


def _any_file() -> bool:
    place = weights_dir()
    return place.is_dir() and any(file.is_file() for file in place.iterdir())


def _missing_tokenizer(row: Row, variant: str) -> str:
    tokenizer = row.weights.get("tokenizer")
    if tokenizer is None:
        return ""
    place, names = weights_dir() / tokenizer["folder"], VOCABULARIES[tokenizer["class"]]
    if find_vocabulary(place, names):
        return ""
    return f"its tokenizer ({' or '.join(names)}) not in {place}: {_command(row, variant)}"


def _command(row: Row, variant: str) -> str:
    return f"python -m fairmedfm_monai weights fetch --fm {row.name} --variant {variant}"
