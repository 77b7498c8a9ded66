"""A table of predictions after a post-processing method that was fitted on its validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairmedfm_monai.fairness.groups import Grouping, make_groupings
from fairmedfm_monai.fairness.predictions import (
    CALIBRATION_SPLIT,
    class_index,
    failed_rows,
    positive_index,
    prediction_arrays,
    require_columns,
)
from fairmedfm_monai.fairness.report import UNKNOWN
from fairmedfm_monai.mitigation.postprocess import Postprocess, Processed, fit_postprocess
from fairmedfm_monai.mitigation.postprocess_rule import POOLED, rule_class

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Names = NDArray[np.object_]

THRESHOLD = "threshold"
SMALL = 20
"""A group fitted on fewer positives or negatives than this is named in the notes."""


def mitigate_predictions(
    table: pd.DataFrame,
    meta: Mapping[str, Any],
    name: str,
    *,
    attributes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit a method on ``val`` and apply it to every split.

    Args:
        table: predictions as in :func:`fairmedfm_monai.fairness.evaluate_predictions`, with a split ``val``.
        meta: its description.
        name: a key of ``POSTPROCESSORS``.
        attributes: whose groups are meant; several are crossed; None = the first of the table.
        options: of the method.
        seed: of methods that draw.

    Returns:
        The table with new scores or with operating points by case (``threshold``, multi-label ``threshold_<class>``),
        and its description: ``mitigation`` holds the fitted method (``Postprocess.from_json`` takes it), the split it
        was fitted on and how many cases used pooled parameters; ``stamps`` say what a reader must know.

    Raises:
        ValueError: no classification, no ``val``, a table that is mitigated already, or what
            :func:`~fairmedfm_monai.mitigation.postprocess.fit_postprocess` refuses.
    """
    chosen = _chosen(table, meta, name, attributes)
    grouping = _grouping(table, meta, chosen)
    names = np.array([*grouping.groups, UNKNOWN], dtype=object)[grouping.codes]
    usable = ~failed_rows(table)
    val = usable & (table["split"] == CALIBRATION_SPLIT).to_numpy()
    truth, scores = _arrays(table[val], meta)
    fitted = fit_postprocess(
        name,
        scores,
        truth,
        names[val],
        declared=grouping.groups,
        classes=meta.get("classes"),
        options=options,
        seed=seed,
    )
    _, scores = prediction_arrays(table, meta)
    processed = fitted.apply(scores, names, ids=table["case_id"].to_numpy(dtype=object))
    usable &= np.isfinite(scores).reshape(len(table), -1).all(axis=1)
    about = _described(fitted, chosen, _pooled_cases(table[usable], names[usable], processed.pooled[usable]))
    return _with_columns(table, meta, processed), _with_mitigation(meta, about, processed)


def _chosen(table: pd.DataFrame, meta: Mapping[str, Any], name: str, attributes: Sequence[str] | None) -> list[str]:
    """The attributes, after everything that can be refused was."""
    rule_class(name)
    if meta.get("task") != "classification":
        msg = f"mitigation {name!r} is for classification, but these are predictions of a {meta.get('task')}"
        raise ValueError(msg)
    require_columns(table, meta)
    done = meta.get("mitigation") or {}
    if done.get("fitted_on"):
        msg = f"these predictions are mitigated already ({done.get('name')}); give those from before"
        raise ValueError(msg)
    if CALIBRATION_SPLIT not in set(table["split"]):
        found = ", ".join(sorted(set(table["split"].astype(str))))
        msg = (
            f"mitigation {name!r} is fitted on the split {CALIBRATION_SPLIT!r}, but the table has {found}; "
            "of tables that are not ours `split` names the column that tells"
        )
        raise ValueError(msg)
    there = list(meta.get("attributes") or {})
    found_names = list(attributes) if attributes is not None else there[:1]
    stray = [attribute for attribute in found_names if attribute not in there]
    if stray or not found_names or len(set(found_names)) < len(found_names):
        msg = f"`mitigation_attributes`: expected some of {', '.join(there) or 'none'}, each once, got {found_names}"
        raise ValueError(msg)
    return found_names


def _grouping(table: pd.DataFrame, meta: Mapping[str, Any], attributes: list[str]) -> Grouping:
    """Groups of one attribute, or of several crossed."""
    declared = {attribute: meta["attributes"][attribute] for attribute in attributes}
    crossed = [attributes] if len(attributes) > 1 else []
    return make_groupings(table[attributes], n=len(table), groups=declared, intersections=crossed)[-1]


def _arrays(table: pd.DataFrame, meta: Mapping[str, Any]) -> tuple[NDArray[Any], FloatArray]:
    """Labels as 0/1 or class index, and scores."""
    truth, scores = prediction_arrays(table, meta)
    if meta.get("multi_label"):
        return truth, scores
    index = class_index(truth, meta)
    return (index == positive_index(meta) if scores.ndim == 1 else index), scores


def _pooled_cases(table: pd.DataFrame, names: Names, pooled: BoolArray) -> dict[str, dict[str, Any]]:
    """By split: cases, those that used pooled parameters (for any label), and of which groups these are."""
    touched = pooled if pooled.ndim == 1 else pooled.any(axis=1)
    found = {}
    for split in dict.fromkeys(table["split"].astype(str)):
        inside = (table["split"] == split).to_numpy()
        groups = pd.Series(names[inside & touched], dtype=object).value_counts().sort_index()
        counts = {str(group): int(n) for group, n in groups.items()}
        found[split] = {"cases": int(inside.sum()), "pooled": sum(counts.values()), "groups": counts}
    return found


def _described(fitted: Postprocess, attributes: list[str], cases: Mapping[str, Any]) -> dict[str, Any]:
    """The fitted method with what is known of its use."""
    by = " x ".join(attributes)
    options = ", ".join(f"{name} {value}" for name, value in fitted.options.items())
    text = (
        f"{fitted.name} by {by} ({options}); fitted on {CALIBRATION_SPLIT}; needs the attribute at inference; "
        f"{fitted.told()}"
    )
    about = {"attributes": attributes, "fitted_on": CALIBRATION_SPLIT, "pooled_cases": dict(cases), "text": text}
    return fitted.to_json() | about | {"notes": _notes(fitted)}


def _notes(fitted: Postprocess) -> list[str]:
    """What a reader must know beside the banner."""
    notes = [
        f"{fitted.name}: its parameters were fixed on {CALIBRATION_SPLIT} and are not fitted anew for intervals and "
        f"tests, which so do not tell how much another {CALIBRATION_SPLIT} split would have changed them"
    ]
    if fitted.rule.RANDOM:
        notes.append(
            f"{fitted.name}: where a group has several thresholds each case got one of them at random, once, by its id "
            f"and seed {fitted.seed}"
        )
    for label, part in fitted.parts.items():
        where = f"{fitted.name}{f', {label}' if label else ''}"
        notes += [
            f"{where}: pooled parameters for {group} ({why})" for group, why in part.reasons.items() if group != POOLED
        ]
        if POOLED in part.reasons:
            notes.append(f"{where}: pooled parameters change nothing ({part.reasons[POOLED]})")
        small = [group for group in part.groups if min(part.cases[group].values()) < SMALL]
        if small:
            least = f"fewer than {SMALL} {' or '.join(part.cases[small[0]])}"
            notes.append(f"{where}: parameters of {', '.join(small)} come from {least} and carry no claim")
    return notes


def _banner(about: Mapping[str, Any]) -> str:
    """What must be seen first."""
    by = " and ".join(about["attributes"])
    shares = [
        f"{part['pooled']} of {part['cases']} {split} cases"
        + (f" ({_listed(part['groups'])})" if part["pooled"] else "")
        for split, part in about["pooled_cases"].items()
    ]
    return (
        f"Needs {by} at inference: mitigated after training by {about['name']}, fitted on {about['fitted_on']}; the "
        f"model must be told the {by} of each patient. Pooled parameters, for groups that are unknown or could not be "
        f"fitted, were used for {'; '.join(shares)}."
    )


def _listed(groups: Mapping[str, int]) -> str:
    return ", ".join(f"{group} {n}" for group, n in groups.items())


def _new_columns(meta: Mapping[str, Any], stem: str) -> list[str]:
    classes = list(meta.get("classes") or [])
    wide = meta.get("multi_label") or len(classes) > 2
    return [f"{stem}_{name}" for name in classes] if wide else [stem]


def _with_columns(table: pd.DataFrame, meta: Mapping[str, Any], processed: Processed) -> pd.DataFrame:
    """The table with new scores, or with thresholds beside the old ones."""
    if processed.thresholds is None:
        columns, values = _new_columns(meta, "score"), processed.scores
    else:
        columns, values = _new_columns(meta, THRESHOLD), processed.thresholds
        taken = [name for name in columns if name in table]
        if taken:
            msg = (
                f"predictions: column(s) {taken} are there already, but thresholds are to be written there; rename them"
            )
            raise ValueError(msg)
    return table.assign(**dict(zip(columns, values.reshape(len(table), -1).T, strict=True)))


def _with_mitigation(meta: Mapping[str, Any], about: Mapping[str, Any], processed: Processed) -> dict[str, Any]:
    """The description of the mitigated table."""
    described = dict(meta) | {"mitigation": dict(about), "stamps": [*(meta.get("stamps") or []), _banner(about)]}
    if processed.thresholds is not None:
        described["threshold_columns"] = _new_columns(meta, THRESHOLD)
    crossed = [list(names) for names in meta.get("intersections") or []]
    if len(about["attributes"]) > 1 and about["attributes"] not in crossed:
        described["intersections"] = [*crossed, about["attributes"]]
    return described
