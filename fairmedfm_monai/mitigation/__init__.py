"""Training so that groups fare alike: each method is one object that knows its sampler, its loss and its options."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "GroupCoder": ".groups",
        "GroupSampler": ".samplers",
        "METHODS": ".method",
        "Method": ".method",
        "make_method": ".method",
    },
)
