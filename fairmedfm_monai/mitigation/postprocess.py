"""Mitigation after training: parameters per group, fitted on validation predictions and applied to any others.

Nothing is trained again. All of these methods need the group of a patient when the model is used; who has none, and
groups that could not be fitted, get the parameters of everyone together (pooled), and are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fairmedfm_monai.fairness.report import UNKNOWN
from fairmedfm_monai.mitigation.options import chosen
from fairmedfm_monai.mitigation.postprocess_fitted import Names, Part, Postprocess, Processed
from fairmedfm_monai.mitigation.postprocess_rule import (
    POOLED,
    POSTPROCESSORS,
    FloatArray,
    Kind,
    Rule,
    counted,
    group_names,
    rule_class,
    too_few,
)

__all__ = ["POSTPROCESSORS", "Postprocess", "Processed", "fit_postprocess"]


def fit_postprocess(
    name: str,
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    declared: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Postprocess:
    """Fit a method on the predictions of a validation split.

    Cases with a score or label that is NaN or infinite are left out.

    Args:
        name: a key of ``POSTPROCESSORS``.
        scores: (n,) score of the positive class; (n, C) with several classes or labels.
        labels: (n,) 0/1 or class index, or (n, C) 0/1 with NaN where a label is missing.
        groups: (n,) group names; None, NaN, empty and ``unknown`` count for the pooled parameters only.
        declared: groups that there are, so that one without a case is reported.
        classes: names of the labels of a multi-label problem; default ``class_0``, ... .
        options: of the method.
        seed: of methods that draw.

    Raises:
        ValueError: an unknown method or option, a kind of problem that it is not for, shapes that do not fit, labels
            that are none, or nothing to fit on.
    """
    settings = chosen(name, rule_class(name).OPTIONS, options)
    rule = rule_class(name)(settings)
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    kind = _kind(name, rule, values, truth)
    names = group_names(groups)
    if not len(values) == len(truth) == len(names):
        msg = f"scores, labels, groups: expected one per case, got {len(values)}, {len(truth)} and {len(names)}"
        raise ValueError(msg)
    known = [group for group in dict.fromkeys([*declared, *sorted(set(names))]) if group != UNKNOWN]
    if kind != "multi_label":
        parts = {"": _part(rule, kind, values, truth, names, known)}
    else:
        titles = classes if classes is not None else [f"class_{i}" for i in range(truth.shape[1])]
        columns = zip(titles, values.T, truth.T, strict=True)
        parts = {label: _part(rule, kind, score, y, names, known) for label, score, y in columns}
    return Postprocess(name, kind, settings, seed, parts)


def _part(rule: Rule, kind: Kind, scores: FloatArray, truth: FloatArray, names: Names, known: Sequence[str]) -> Part:
    """Fit one label."""
    finite = np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1)
    usable = finite & np.isfinite(truth)
    scores, labels, names = scores[usable], truth[usable].astype(np.int64), names[usable]
    members = {group: names == group for group in known}
    cases = {group: counted(labels[rows], kind) for group, rows in members.items()}
    cases[POOLED] = counted(labels, kind)
    lacking = too_few(labels, kind=kind, least=1)
    if lacking and kind != "multi_label":
        msg = f"mitigation: nothing can be fitted on these {labels.size} cases: {lacking}"
        raise ValueError(msg)
    if lacking:
        return Part(rule.UNCHANGED, {}, dict.fromkeys([*known, POOLED], lacking), cases)
    least = int(rule.options["min_cases"])
    reasons = {group: too_few(labels[rows], kind=kind, least=least) for group, rows in members.items()}
    usable_groups = {group: rows for group, rows in members.items() if not reasons[group]}
    pooled, own, without = rule.fit(scores, labels, usable_groups)
    return Part(pooled, own, {group: text for group, text in reasons.items() if text} | without, cases)


def _kind(name: str, rule: Rule, scores: FloatArray, labels: FloatArray) -> Kind:
    """Which problem this is, by the shapes; checks that the method is for it and that labels are labels."""
    kind: Kind = "multi_label" if labels.ndim == 2 else "multi_class" if scores.ndim == 2 else "binary"
    if kind not in rule.KINDS:
        msg = f"mitigation {name!r} is for {' and '.join(rule.KINDS)} problems, but this one is {kind}"
        raise ValueError(msg)
    if kind == "multi_label" and scores.shape != labels.shape:
        msg = f"scores: expected the shape of the labels {labels.shape}, got {scores.shape}"
        raise ValueError(msg)
    width = scores.shape[1] if kind == "multi_class" else 2
    stray = labels[np.isfinite(labels) & ~np.isin(labels, np.arange(width))]
    if stray.size:
        expected = f"a class index 0..{width - 1}" if kind == "multi_class" else "0 or 1"
        msg = f"labels: expected {expected}, got {np.unique(stray)[:5].tolist()}"
        raise ValueError(msg)
    return kind
