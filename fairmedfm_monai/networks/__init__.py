"""Foundation models behind three interfaces; names load on first use, so importing this loads no model library."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CLIPEncoder": ".encoders.clip",
        "DemoCLIP": ".encoders.demo_clip",
        "DemoSAM": ".segmenters.demo_sam",
        "ImageEncoder": ".encoders.base",
        "InputSpec": ".spec",
        "MedSamSegmenter": ".segmenters.medsam",
        "PromptableSegmenter": ".segmenters.base",
        "SamSegmenter": ".segmenters.sam",
        "VisionLanguageEncoder": ".encoders.base",
        "WeightSource": ".weights",
        "WeightsError": ".weights",
        "strict_keys": ".weights",
        "weights_kind": ".weights",
    },
)
