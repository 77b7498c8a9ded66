"""Every rule that `dataset.json` must keep, told all at once."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fairmedfm_monai.data.problems import Problem

MODALITIES = ("xray", "fundus", "slo", "oct", "dermoscopy", "ultrasound", "ct", "mri", "pathology")
TASKS = ("classification", "segmentation")
UNITS = ("patient", "image")
REQUIRED = ("schema", "name", "task", "modality", "spatial_dims")
OPTIONAL = (
    "unit", "licence", "title", "citation", "notice", "description", "classes", "labels", "positive_class",
    "multi_label", "attributes", "intersections", "window", "reader_dice", "release", "extra_columns",
)  # fmt: skip
RESERVED_ATTRIBUTES = frozenset(
    {"case_id", "patient_id", "split", "image", "mask", "label", "score", "failed", "prompt"}
)
ATTRIBUTE_KEYS = ("column", "groups", "bins", "missing", "title")
_SLUG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,59}")

Report = Callable[[str, str], None]


def is_slug(name: object) -> bool:
    """Whether a name can be part of an MLflow key: ``[A-Za-z0-9_-][A-Za-z0-9_.-]*``, at most 60, without ``__``."""
    return isinstance(name, str) and _SLUG.fullmatch(name) is not None and "__" not in name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Hint at the nearest known name, empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_card(content: object) -> list[Problem]:
    """All problems of a card's content; empty when it can be used as it is."""
    if not isinstance(content, Mapping):
        return [Problem("card_type", f"the card must be a JSON object, but it is {type(content).__name__}")]
    problems: list[Problem] = []

    def report(kind: str, message: str, level: str = "error") -> None:
        problems.append(Problem(kind, message, level))

    for key in REQUIRED:
        if key not in content:
            report("card_key", f"the card lacks the key {key!r}")
    for key in content:
        if key not in REQUIRED + OPTIONAL:
            report("card_unknown_key", f"the card's key {key!r} is not known{did_you_mean(key, OPTIONAL)}", "warning")
    _check_scalars(content, report)
    _check_task(content, report)
    attributes = content.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        report("attribute_type", "`attributes` must map attribute names to their groups")
        attributes = {}
    for name, entry in attributes.items():
        _check_attribute(name, entry, report)
    _check_intersections(content.get("intersections") or [], attributes, report)
    _check_window(content.get("window"), report)
    return problems


def _check_scalars(content: Mapping[str, Any], report: Report) -> None:
    for key, allowed in (
        ("schema", (1,)),
        ("task", TASKS),
        ("modality", MODALITIES),
        ("spatial_dims", (2, 3)),
        ("unit", UNITS),
    ):
        if key in content and (content[key] not in allowed or isinstance(content[key], bool)):
            report("card_value", f"`{key}` must be one of {', '.join(map(str, allowed))}, but got {content[key]!r}")
    if "name" in content:
        _check_slug("name", content["name"], report)
    extra = content.get("extra_columns") or []
    if not isinstance(extra, list) or not all(isinstance(name, str) for name in extra):
        report("card_value", f"`extra_columns` must be a list of column names, but got {extra!r}")
    for key in ("licence", "title", "citation", "notice", "description", "release"):
        if not isinstance(content.get(key, ""), (str, type(None))):
            report("card_value", f"`{key}` must be text, but got {content[key]!r}")
    if not isinstance(content.get("multi_label", False), bool):
        report("card_value", f"`multi_label` must be true or false, but got {content['multi_label']!r}")


def _check_slug(where: str, name: object, report: Report) -> None:
    if not is_slug(name):
        report(
            "slug",
            f"{where}: the name {name!r} is not allowed; use letters, digits, '_', '-' and '.', not '.' first, "
            "at most 60 characters and no '__' (put the text that people read into `title`)",
        )


def _check_task(content: Mapping[str, Any], report: Report) -> None:
    if content.get("task") == "classification":
        _check_classes(content, report)
    elif content.get("task") == "segmentation":
        _check_labels(content.get("labels"), report)


def _check_classes(content: Mapping[str, Any], report: Report) -> None:
    classes = content.get("classes")
    multi_label = content.get("multi_label") is True
    if not isinstance(classes, Mapping) or len(classes) < (1 if multi_label else 2):
        found = f"only {', '.join(classes)}" if isinstance(classes, Mapping) and classes else repr(classes)
        expected = "at least two class names to lists of prompts (one if `multi_label`)"
        report("classes", f"`classes` of dataset.json must map {expected}, but there is {found}")
        return
    for name, prompts in classes.items():
        _check_slug("classes", name, report)
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            expected = "a list of texts, none of them empty"
            report(
                "classes", f"classes of dataset.json: the prompts of {name!r} must be {expected}, but got {prompts!r}"
            )
    positive = content.get("positive_class")
    if positive is not None and positive not in classes:
        report("positive_class", f"`positive_class` must be one of {', '.join(classes)}, but got {positive!r}")
    if positive is None and len(classes) == 2 and not multi_label:
        report("positive_class", f"a card with two classes needs `positive_class`, one of {', '.join(classes)}")


def check_prompts(classes: Mapping[str, list[str]]) -> list[Problem]:
    """A problem for each class of a checked card that has no prompt; usages that read no prompts can do without."""
    what_to_do = "zero_shot, prototypes and adapter need one or more; the other usages read none"
    return [
        Problem("prompts", f"classes: {name!r} has no prompt: {what_to_do}")
        for name, prompts in classes.items()
        if not prompts
    ]


def _check_labels(labels: object, report: Report) -> None:
    if not isinstance(labels, Mapping) or not labels:
        report("labels", '`labels` must map label names to mask values, e.g. {"kidney": 1}')
        return
    for name, value in labels.items():
        _check_slug("labels", name, report)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            report(
                "labels",
                f"labels: {name!r} must have a whole mask value of 1 or more (0 is background), but got {value!r}",
            )
    values = list(labels.values())
    for value in {value for value in values if values.count(value) > 1}:
        names = ", ".join(name for name in labels if labels[name] == value)
        report("labels", f"labels: the mask value {value} is given to several labels: {names}")


def _check_attribute(name: str, entry: object, report: Report) -> None:
    where = f"attribute {name!r}"
    _check_slug("attributes", name, report)
    if name in RESERVED_ATTRIBUTES or name.startswith(("label_", "score_")):
        report("attribute_name", f"{where}: the name is taken by a column of the outputs; choose another")
    if not isinstance(entry, Mapping) or not isinstance(entry.get("column", ""), str):
        report("attribute_type", f'{where} must be an object, e.g. {{"column": "Sex", "groups": {{"female": ["F"]}}}}')
        return
    for key in entry:
        if key not in ATTRIBUTE_KEYS:
            report("attribute_key", f"{where}: the key {key!r} is not known{did_you_mean(key, ATTRIBUTE_KEYS)}")
    if not isinstance(entry.get("title"), (str, type(None))):
        report("card_value", f"{where}: `title` must be text, but got {entry['title']!r}")
    missing = entry.get("missing") or []
    if not isinstance(missing, list):
        report("missing", f"{where}: `missing` must be a list of raw values, but got {missing!r}")
        missing = []
    groups = entry.get("groups")
    if entry.get("bins") is not None:
        _check_bins(where, entry["bins"], groups, report)
    elif isinstance(groups, Mapping) and groups:
        _check_values(where, groups, missing, report)
    else:
        expected = "`groups` must map group names to lists of raw values (or be a list, with `bins`)"
        report("groups", f"{where}: {expected}, but got {groups!r}")
    _check_group_names(where, groups, report)


def _check_group_names(where: str, groups: object, report: Report) -> None:
    for group in groups if isinstance(groups, (list, Mapping)) else []:
        _check_slug(where, group, report)
        if group == "unknown":
            report("groups", f"{where}: the group name 'unknown' is reserved; list its raw values under `missing`")


def _check_bins(where: str, bins: object, groups: object, report: Report) -> None:
    numbers = bins if isinstance(bins, list) else []
    if len(numbers) < 2 or not all(isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in numbers):
        report("bins", f"{where}: `bins` must be a list of at least two numbers, but got {bins!r}")
        return
    if any(not low < high for low, high in itertools.pairwise(numbers)):
        report("bins", f"{where}: `bins` must rise strictly (group i is [bins[i], bins[i+1])), but got {bins!r}")
    if not isinstance(groups, list) or len(groups) != len(numbers) - 1:
        report(
            "bins",
            f"{where}: {len(numbers)} edges need a list of {len(numbers) - 1} group names, but `groups` is {groups!r}",
        )
    elif len(set(map(str, groups))) != len(groups):
        report("bins", f"{where}: `groups` names a group twice: {groups!r}")


def _check_values(where: str, groups: Mapping[str, Any], missing: list[Any], report: Report) -> None:
    owner: dict[str, str] = {str(raw): "missing" for raw in missing}
    for group, raws in groups.items():
        if not isinstance(raws, list):
            report("groups", f"{where}: the raw values of group {group!r} must be a list, but got {raws!r}")
            continue
        for raw in map(str, raws):
            if owner.setdefault(raw, group) != group:
                report("groups", f"{where}: the raw value {raw!r} is given to both {owner[raw]!r} and {group!r}")


def _check_intersections(intersections: object, attributes: Mapping[str, Any], report: Report) -> None:
    if not isinstance(intersections, list):
        report(
            "intersections", f"`intersections` must be a list of lists of attribute names, but got {intersections!r}"
        )
        return
    for names in intersections:
        if not isinstance(names, list) or len(names) < 2 or len(set(map(str, names))) != len(names):
            report("intersections", f"`intersections`: {names!r} must list at least two different attributes")
            continue
        for name in names:
            if name not in attributes:
                report(
                    "intersections",
                    f"`intersections`: {name!r} is no attribute of the card ({', '.join(attributes) or 'it has none'})",
                )


def _check_window(window: object, report: Report) -> None:
    pair = isinstance(window, list) and len(window) == 2 and all(isinstance(value, (int, float)) for value in window)
    if window is not None and not isinstance(window, str) and not (pair and window[1] > 0):  # type: ignore[index]
        report(
            "window",
            "`window` must be null, a window name such as 'lung', or [centre, width] in the units of the files (HU of "
            f"CT), but got {window!r}",
        )
