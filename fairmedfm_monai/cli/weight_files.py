"""Which weight files the models expect, which are there, and fetching them."""

from __future__ import annotations

import importlib
from pathlib import Path

from fairmedfm_monai.catalog import Row
from fairmedfm_monai.data.home import home

SHIPPED = "in the package"


def status(row: Row, variant: str | None = None) -> list[str]:
    """One line per weight file of a model: variant, file, whether it is there, where it comes from.

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
        found = "found" if path.is_file() else "missing"
        lines.append(
            f"  {name:28} {entry['file']:28} {found:8} {path}  (from {entry.get('url') or row.weights['source']})"
        )
    others = len(row.variants) - len(row.weights["files"])
    if others and variant is None:
        lines.append(f"  and {others} more variants, found by `weights fetch --fm {row.name} --variant NAME`")
    return lines


def fetch(row: Row, variant: str | None = None) -> Path:
    """Download the weights of a variant into the cache folder, or find them there.

    Args:
        row: the model.
        variant: by default the catalog's.

    Returns:
        The file.

    Raises:
        ValueError: for weights that are shipped with the package, or an unknown variant.
    """
    if row.weights["source"].startswith(SHIPPED):
        msg = f"the weights of {row.name} are shipped with the package: nothing to fetch"
        raise ValueError(msg)
    module, name = row.network.rsplit(".", 1)
    network = getattr(importlib.import_module(module), name)
    from fairmedfm_monai.networks.weights import fetch_weights, find_weights

    source = network.source(variant or row.default_variant)
    return find_weights(source) or fetch_weights(source)
