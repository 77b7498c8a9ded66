"""Demo data: radiographs, CT slices and CT volumes of virtual patients, all made from one real scan."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

EXPORTS = {
    "ensure_demo": ".build",
    "make_xray": ".xray",
    "make_ct2d": ".ct2d",
    "make_ct3d": ".ct3d",
    "make_ct_nodules": ".ct_nodules",
    "load_scan": ".scan",
    "Projector": ".radiograph",
}
__all__ = ["EXPORTS"]
__getattr__, __dir__ = lazy_exports(__name__, EXPORTS)
