"""Prompted inference on images and volumes; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__, {"PromptFreeInferer": ".prompt_free", "PromptedInferer": ".prompted", "StopRule": ".propagation"}
)
