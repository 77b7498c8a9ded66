"""Promptable segmenters, one file per family; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DemoSAM": ".demo_sam",
        "FastSam3dSegmenter": ".fastsam3d",
        "FtSamSegmenter": ".sam_med2d",
        "MedSam2Segmenter": ".medsam2",
        "MedSamSegmenter": ".medsam",
        "MobileSamSegmenter": ".mobile_sam",
        "PromptableSegmenter": ".base",
        "Sam2Segmenter": ".sam2",
        "SamCore": ".sam",
        "SamMed2dSegmenter": ".sam_med2d",
        "SamMed3dSegmenter": ".sam_med3d",
        "SamSegmenter": ".sam",
        "SegVolSegmenter": ".segvol",
        "TinySamSegmenter": ".mobile_sam",
        "VolumeSegmenter": ".volume",
        "VolumeSpec": ".volume",
        "build_sam": ".sam_builder",
    },
)
