"""Class labels that arrive as files: MONAI Label keeps every label of its studies in one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FORMS = '{"label": "<class>"} or {"prediction": [{"label": "<class>", "score": 0.9}, ...]}'


def read_class_label(path: str | Path, classes: Sequence[str]) -> int:
    """Class index in a JSON file.

    Args:
        path: holds ``{"label": name or index}``, or MONAI Label's own answer to a classification,
            ``{"prediction": [{"label": name, "score": value}, ...]}``, of which the largest score counts.
        classes: class names; the position is the index. Case does not matter: MONAI Label writes names in lower case.

    Raises:
        ValueError: the file is missing, is no JSON of these forms or names another class.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if "prediction" in content:
            content = max(content["prediction"], key=lambda entry: float(entry["score"]))
        label = content["label"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        msg = f"class label {path} must be a JSON file such as {_FORMS}, but it is not ({error!r})"
        raise ValueError(msg) from error
    names = [name.lower() for name in classes]
    if isinstance(label, str) and label.lower() in names:
        return names.index(label.lower())
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    msg = f"class label {path} must name one of the classes {', '.join(classes)} (or its index), but it says {label!r}"
    raise ValueError(msg)


class PrepareClasses:
    """``prepare_batch`` of trainers and evaluators of classification: image and class indices on the device.

    The labels of dataset folders are numbers already and pass unchanged. MONAI Label puts the paths of label files in
    their place, which `read_class_label` turns into numbers.

    Args:
        classes: class names; the position is the index.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Image (B, ...) and label (B,) or (B, C); the label is None where cases have none."""
        image, label = batchdata["image"], batchdata.get("label")
        if label is not None and not isinstance(label, Tensor):
            label = torch.tensor([read_class_label(path, self.classes) for path in label])
        image = image.to(device=device, non_blocking=non_blocking, **kwargs)
        return image, None if label is None else label.to(device=device, non_blocking=non_blocking)
