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
        "default_tracking_uri": ".settings",
        "stamps": ".settings",
        "check_checkpoint": ".checkpoint",
        "export_model": ".checkpoint",
        "keep_progress": ".checkpoint",
        "render_bundle": ".render",
        "bundle_names": ".render",
    },
)
