"""Render the pages of the public datasets into ``docs/datasets/``, and their table into the README."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.data.prepare import public_datasets
from fairmedfm_monai.data.prepare.pages import pages, with_table

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    datasets = public_datasets().values()
    folder = ROOT / "docs" / "datasets"
    folder.mkdir(exist_ok=True)
    for name, text in pages(datasets).items():
        (folder / name).write_text(text, encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), datasets), encoding="utf-8")
    print(f"wrote {len(datasets) + 1} pages into {folder} and the table of {readme}")
