"""Bundles: rendering them from the catalog, and the few calls that their configurations make.

Everything here is imported lazily: a configuration that needs ``check_overrides`` does not load the renderer.
"""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ModelInfo": ".model_info",
        "read_model_info": ".model_info",
        "check_overrides": ".overrides",
        "default_selection": ".label_names",
        "default_tracking_uri": ".settings",
        "prompt_free_protocol": ".protocols",
        "segmentation_protocol": ".protocols",
        "stamps": ".settings",
        "warn_of_licence": ".settings",
        "weights_licence": ".settings",
        "check_checkpoint": ".checkpoint",
        "export_model": ".checkpoint",
        "check_selection": ".start",
        "keep_last": ".start",
        "keep_progress": ".checkpoint",
        "start_from_model": ".start",
        "validation_cases": ".start",
        "trained_labels": ".label_names",
        "render_bundle": ".render",
        "bundle_names": ".render",
    },
)
