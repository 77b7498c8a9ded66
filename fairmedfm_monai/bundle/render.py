"""Rendering bundles from the catalog."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType

from fairmedfm_monai.bundle.configs import (
    classification,
    classification_training,
    segmentation,
    segmentation_trained,
    segmentation_training,
)
from fairmedfm_monai.bundle.configs.common import TRAINED, Config, with_licence_warning
from fairmedfm_monai.bundle.metadata import metadata
from fairmedfm_monai.bundle.readme import readme
from fairmedfm_monai.catalog import Row, rows


def bundle_names() -> list[str]:
    """Names of all bundles of the catalog, sorted."""
    return sorted(name for row in rows().values() for name in row.bundles)


def render_bundle(name: str, output: str | Path) -> Path:
    """Write one bundle.

    Args:
        name: ``<fm>_<task>_<usage>``.
        output: folder in which the bundle's own folder is made; its files are replaced, others are left alone.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: for an unknown name; offers the nearest ones.
    """
    row, usage = _find(name)
    folder = Path(output) / name
    for relative, text in _files(row, usage):
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


def _find(name: str) -> tuple[Row, str]:
    for row in rows().values():
        if name in row.bundles:
            return row, name.removeprefix(f"{row.name}_{row.task}_")
    near = difflib.get_close_matches(name, bundle_names(), n=3) or bundle_names()
    msg = f"`name` must be a bundle of the catalog, but got {name!r}. Did you mean {', '.join(near)}?"
    raise ValueError(msg)


def _configs(row: Row, usage: str) -> Iterator[tuple[str, Config]]:
    trained = usage in TRAINED
    use: ModuleType
    training: ModuleType
    if row.task == "classification":
        use, training = classification, classification_training
    else:
        use, training = segmentation_trained if trained else segmentation, segmentation_training
    yield "metadata", metadata(row, usage)
    yield "evaluate", use.evaluate(row, usage)
    yield "inference", use.inference(row, usage)
    yield "multi_gpu_evaluate", use.multi_gpu_evaluate(row, usage)
    if trained:
        yield "train", training.train(row, usage)
        yield "multi_gpu_train", training.multi_gpu_train(row, usage)


def _files(row: Row, usage: str) -> Iterator[tuple[str, str]]:
    for name, config in _configs(row, usage):
        yield f"configs/{name}.json", json.dumps(with_licence_warning(row, config), indent=4, ensure_ascii=False) + "\n"
    shared = resources.files("fairmedfm_monai.bundle").joinpath("files")
    yield "configs/logging.conf", shared.joinpath("logging.conf").read_text(encoding="utf-8")
    yield "LICENSE", shared.joinpath("LICENSE").read_text(encoding="utf-8")
    yield "docs/README.md", readme(row, usage)
    large = _large_files(row)
    if large:
        yield "large_files.yml", large


def _large_files(row: Row) -> str:
    """The zoo's list of downloads, for weights that have a plain address."""
    entry = row.weights["files"].get(row.default_variant, {})
    if not str(entry.get("url", "")).endswith(entry.get("file", " ")):
        return ""
    lines = ["large_files:", f'- path: "weights/{entry["file"]}"', f'  url: "{entry["url"]}"']
    if "sha256" in entry:
        lines += [f'  hash_val: "{entry["sha256"]}"', '  hash_type: "sha256"']
    return "\n".join(lines) + "\n"
