"""Class labels that arrive as files: MONAI Label keeps every label of its studies in one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FORMS = '{"label": "<class>"} or {"prediction": [{"label": "<class>", "score": 0.9}, ...]}'
_LIST_FORMS = '{"label": ["<class>", ...]} or {"prediction": [{"label": "<class>", "score": 0.9}, ...]}'
_PRESENT = 0.5  # score from which on a label of a prediction counts as present


def negative_class(classes: Sequence[str], positive: str | None, multi_label: bool) -> int | None:
    """Index of the class of images that show nothing: the first that is not the positive one.

    None where labels are independent: there is no such class then.
    """
    if multi_label:
        return None
    return next(index for index, name in enumerate(classes) if name != positive)


def read_class_label(path: str | Path, classes: Sequence[str]) -> int:
    """Class index in a JSON file.

    Args:
        path: holds ``{"label": name or index}``, or MONAI Label's own answer to a classification,
            ``{"prediction": [{"label": name, "score": value}, ...]}``, of which the largest score counts.
        classes: class names; the position is the index. Case does not matter: MONAI Label writes names in lower case.

    Raises:
        ValueError: the file is missing, is no JSON of these forms or names another class.
    """
    content = _read(path, _FORMS)
    try:
        if "prediction" in content:
            content = max(content["prediction"], key=lambda entry: float(entry["score"]))
        label = content["label"]
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_label(path, _FORMS, error) from error
    return _index(path, label, classes)


def read_class_labels(path: str | Path, classes: Sequence[str]) -> list[float]:
    """0/1 for each of several independent labels, from a JSON file.

    Args:
        path: holds ``{"label": [names or indices]}`` (one name may stand alone, none is an empty list), or
            ``{"prediction": [{"label": name, "score": value}, ...]}``, of which scores from 0.5 on count.
        classes: class names; the position is the index. Case does not matter.

    Raises:
        ValueError: the file is missing, is no JSON of these forms or names another class.
    """
    content = _read(path, _LIST_FORMS)
    try:
        if "prediction" in content:
            found = [entry["label"] for entry in content["prediction"] if float(entry["score"]) >= _PRESENT]
        else:
            found = content["label"] if isinstance(content["label"], list) else [content["label"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_label(path, _LIST_FORMS, error) from error
    present = {_index(path, label, classes) for label in found}
    return [float(index in present) for index in range(len(classes))]


def _read(path: str | Path, forms: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _not_a_label(path, forms, error) from error


def _not_a_label(path: str | Path, forms: str, error: Exception) -> ValueError:
    return ValueError(f"class label {path} must be a JSON file such as {forms}, but it is not ({error!r})")


def _index(path: str | Path, label: object, classes: Sequence[str]) -> int:
    names = [name.lower() for name in classes]
    if isinstance(label, str) and label.lower() in names:
        return names.index(label.lower())
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    msg = f"class label {path} must name one of the classes {', '.join(classes)} (or its index), but it says {label!r}"
    raise ValueError(msg)


class PrepareClasses:
    """``prepare_batch`` of trainers and evaluators of classification: image and labels on the device.

    The labels of dataset folders are numbers already and pass unchanged. MONAI Label puts the paths of label files in
    their place, which `read_class_label` or `read_class_labels` turns into numbers.

    Args:
        classes: class names; the position is the index.
        multi_label: whether a case may have several classes; its label then is a vector of 0 and 1.
    """

    def __init__(self, classes: Sequence[str], *, multi_label: bool = False) -> None:
        self.classes = list(classes)
        self.multi_label = multi_label

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Image (B, ...) and label (B,), of independent labels (B, C); the label is None where cases have none."""
        image, label = batchdata["image"], batchdata.get("label")
        if label is not None and not isinstance(label, Tensor):
            read = read_class_labels if self.multi_label else read_class_label
            label = torch.tensor([read(path, self.classes) for path in label])
        image = image.to(device=device, non_blocking=non_blocking, **kwargs)
        return image, None if label is None else label.to(device=device, non_blocking=non_blocking)
