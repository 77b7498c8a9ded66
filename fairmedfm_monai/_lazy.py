"""Lazy re-exports, so that importing a subpackage loads no model library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build the ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: dotted name of the package (its ``__name__``).
        exports: public name -> dotted module, relative to the package (e.g. ``{"LinearProbe": ".linear_probe"}``).
    """

    def __getattr__(name: str) -> Any:
        if name not in exports:
            msg = f"module {package!r} has no attribute {name!r}; it offers {', '.join(sorted(exports))}"
            raise AttributeError(msg)
        return getattr(importlib.import_module(exports[name], package), name)

    def __dir__() -> list[str]:
        return sorted(exports)

    return __getattr__, __dir__
