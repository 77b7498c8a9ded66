"""Ways to use a foundation model, one per file; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LinearProbe": ".linear_probe",
        "MergedState": ".lora",
        "ZeroShotClassifier": ".zero_shot",
        "add_lora": ".lora",
        "check_gradients": ".lora",
        "load_adapter": ".lora",
        "save_adapter": ".lora",
    },
)
