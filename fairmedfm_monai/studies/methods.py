"""Mitigation methods as studies see them: by name, during or after training."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fairmedfm_monai.bundle.configs.classification_parts import TEXTUAL
from fairmedfm_monai.studies.records import Faults
from fairmedfm_monai.studies.spec import Mitigation

SEGMENTATION_ONLY = ("febs", "febs_published")


@lru_cache(maxsize=1)
def _tables() -> tuple[Mapping[str, tuple[str, str, str]], Mapping[str, tuple[str, str, str]]]:
    from fairmedfm_monai.mitigation.method import METHODS
    from fairmedfm_monai.mitigation.postprocess import POSTPROCESSORS

    return METHODS, POSTPROCESSORS


def method_names() -> tuple[str, ...]:
    """All methods, those after training last."""
    during, after = _tables()
    return (*during, *after)


def is_postprocessor(name: str) -> bool:
    """Whether a method re-scores the predictions of another cell instead of training."""
    return name in _tables()[1]


def not_for_task(name: str, task: str) -> str:
    """Why a method cannot be used for a task; empty where it can."""
    other = "classification" if is_postprocessor(name) else ""
    other = "segmentation" if name in SEGMENTATION_ONLY else other
    return f"{name} is for {other}" if other and other != task else ""


def not_for_usage(name: str, usage: str) -> str:
    """Why a method cannot be used with a usage; empty where it can."""
    if name == "domain_independent" and usage in TEXTUAL:
        return f"{name} needs a head that ends in a linear layer, which {usage} has not"
    return ""


def not_for_classes(name: str) -> str:
    """Why a method cannot be used where a case has one of several classes; empty where it can."""
    if not is_postprocessor(name):
        return ""
    from fairmedfm_monai.mitigation.postprocess_rule import rule_class

    return "" if "multi_class" in rule_class(name).KINDS else f"{name} is for two classes or independent labels"


def check_method(method: Mitigation, *, place: str, faults: Faults) -> None:
    """One method of a grid: name, options, attributes."""
    if not faults.known(place, method.name, method_names(), "its name"):
        return
    if method.options:  # a method's module may be slow to import
        try:
            _check_options(method.name, method.options)
        except ValueError as error:
            faults.add(f"{place}.options", str(error))
    if method.name == "erm" and method.attributes:
        faults.add(f"{place}.attributes", "erm knows no groups")
    if is_postprocessor(method.name) and method.train:
        faults.add(f"{place}.train", "the method comes after training: it trains nothing")


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    from fairmedfm_monai.mitigation.options import chosen

    during, after = _tables()
    module, kind, _ = {**during, **after}[name]
    found = getattr(importlib.import_module(module, "fairmedfm_monai.mitigation"), kind)
    chosen(name, found.OPTIONS, options)
