"""Promptable segmenters, one file per family; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DemoSAM": ".demo_sam",
        "MedSamSegmenter": ".medsam",
        "PromptableSegmenter": ".base",
        "SamCore": ".sam",
        "SamSegmenter": ".sam",
        "VolumeSegmenter": ".volume",
        "VolumeSpec": ".volume",
        "build_sam": ".sam_builder",
    },
)
