"""Reports that people read: figures, HTML, model card."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"write_report": ".html"})
