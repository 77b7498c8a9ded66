"""From the raw release of a dataset, as its owner ships it, to a dataset folder."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Choice": ".spec",
        "Made": ".made",
        "Prepared": ".engine",
        "PublicDataset": ".spec",
        "Release": ".spec",
        "find_dataset": ".registry",
        "prepare_dataset": ".engine",
        "public_datasets": ".registry",
        "write_folder": ".engine",
    },
)
