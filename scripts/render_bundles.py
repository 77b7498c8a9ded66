"""Render every bundle of the catalog into ``bundles/`` and every page on an FM into ``docs/models/``."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.bundle.pages import pages
from fairmedfm_monai.bundle.render import bundle_names, render_bundle

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    for name in bundle_names():
        print(render_bundle(name, ROOT / "bundles"))
    for name, text in pages().items():
        page = ROOT / "docs" / "models" / name
        page.parent.mkdir(exist_ok=True)
        page.write_text(text, encoding="utf-8")
        print(page)
