"""Render every bundle of the catalog into ``bundles/``: ``python scripts/render_bundles.py``."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.bundle.render import bundle_names, render_bundle

if __name__ == "__main__":
    for name in bundle_names():
        print(render_bundle(name, Path(__file__).parents[1] / "bundles"))
