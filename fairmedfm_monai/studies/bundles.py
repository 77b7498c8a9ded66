"""The bundles of a study, rendered once and shared by its cells and processes."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from filelock import FileLock

from fairmedfm_monai.reporting.files import write_atomic

_CHANGED_BY_TRAINING = Path("configs") / "metadata.json"


@functools.cache
def study_bundle(name: str, output: Path) -> Path:
    """Folder of a bundle under ``<output>/bundles``, as this version renders it; safe in several processes at once.

    Raises:
        ValueError: for a name that the catalog does not have.
    """
    from fairmedfm_monai.bundle.render import render_bundle

    folder = (output / "bundles").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"), tempfile.TemporaryDirectory() as scratch:
        rendered = render_bundle(name, scratch)
        for file in sorted(path for path in rendered.rglob("*") if path.is_file()):
            _update(folder / name / file.relative_to(rendered), file, keep=_CHANGED_BY_TRAINING)
    return folder / name


def _update(target: Path, source: Path, *, keep: Path) -> None:
    """Replace a file that differs, as a whole: another process may read it."""
    content = source.read_bytes()
    if target.is_file() and (target.parts[-len(keep.parts) :] == keep.parts or target.read_bytes() == content):
        return
    write_atomic(target, lambda path: path.write_bytes(content))


@functools.cache
def starts_from_model(name: str) -> bool:
    """Whether the training of a bundle can start from another model (its train.json has the key ``start_from``).

    Raises:
        ValueError: for a name that the catalog does not have.
    """
    from fairmedfm_monai.bundle.render import render_bundle

    with tempfile.TemporaryDirectory() as scratch:
        config = render_bundle(name, scratch) / "configs" / "train.json"
        return config.is_file() and '"start_from":' in config.read_text(encoding="utf-8")
