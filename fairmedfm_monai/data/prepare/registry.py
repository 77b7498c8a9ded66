"""The public datasets: every module of `fairmedfm_monai.data.public` that has a ``DATASET``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from fairmedfm_monai.data import public
from fairmedfm_monai.data.card_checks import did_you_mean
from fairmedfm_monai.data.prepare.spec import PublicDataset


@lru_cache(maxsize=1)
def public_datasets() -> dict[str, PublicDataset]:
    """All public datasets, by name."""
    modules = sorted(info.name for info in pkgutil.iter_modules(public.__path__))
    found = [importlib.import_module(f"{public.__name__}.{name}").DATASET for name in modules]
    return {dataset.name: dataset for dataset in found}


def find_dataset(name: str) -> PublicDataset:
    """The dataset of a name or an alias, whatever its case.

    Raises:
        ValueError: no such dataset.
    """
    datasets = public_datasets()
    known = {other.lower(): dataset for dataset in datasets.values() for other in (dataset.name, *dataset.aliases)}
    if name.lower() not in known:
        msg = (
            f"`name`: there is no dataset {name!r}{did_you_mean(name.lower(), known)}; it may be {', '.join(datasets)}"
        )
        raise ValueError(msg)
    return known[name.lower()]
