"""Image and vision-language encoders, one file per family; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CLIPEncoder": ".clip",
        "DemoCLIP": ".demo_clip",
        "ImageEncoder": ".base",
        "VisionLanguageEncoder": ".base",
    },
)
