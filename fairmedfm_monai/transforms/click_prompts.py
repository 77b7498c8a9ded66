"""Prompts from the clicks of MONAI Label and MONAI Deploy."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.prompt_checks import check_box, check_prompt
from fairmedfm_monai.transforms.prompts import (
    BACKGROUND,
    BOX_LOWER,
    BOX_UPPER,
    OBJECT,
    USER,
    Prompt,
    add_prompts,
    as_image,
    case_name,
    file_affine,
    label_values,
)


class ClicksToPromptsd(MapTransform):
    """Turn the clicks of a viewer into one prompt of kind ``user``; without clicks do nothing.

    Reads, from the request (the data dict, MONAI Label) or else from the image's meta data (MONAI Deploy):

    * ``foreground``, ``background``: lists of voxel indices of the image file, [[i, j, k], ...];
    * ``roi``: a box, two corners [[i, j, k], [i, j, k]] or 3D Slicer's [i0, i1, j0, j1, k0, k1], ends inclusive;
    * ``label``: name of one of `labels`; without it, `label`.

    On pictures a third coordinate 0 is dropped. Runs right after loading, like all writers of prompts.

    Args:
        keys: key of the image.
        label: name of the label that clicks ask for, unless the request says another.
        labels: names of the labels (or name -> value) that a request may ask for; None = `label` only.
        allow_missing_keys: do nothing for a case without image.

    Raises:
        ValueError: a click that is no point of the image, a `roi` of another form or without size, or a
            `label` that is not known.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        label: str | None = None,
        labels: Mapping[str, int] | Sequence[str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        names = [label] if labels is None else list(label_values(labels))
        self.labels = [str(name) for name in names if name is not None]
        if not self.labels or (label is not None and label not in self.labels):
            msg = f"label must be one of labels, and one of the two is needed, got label {label!r}, labels {labels!r}"
            raise ValueError(msg)
        self.label = label or self.labels[0]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the clicks to ``prompts`` in a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = as_image(result, key)
            dims, case = image.ndim - 1, case_name(result, image)
            groups = [
                (_points(result, image, "foreground", dims, case), [OBJECT]),
                (_points(result, image, "background", dims, case), [BACKGROUND]),
                (_box(result, image, dims, case), [BOX_LOWER, BOX_UPPER]),
            ]
            coords = [point for points, _ in groups for point in points]
            if not coords:
                continue
            point_labels = [value for points, values in groups for value in values * (len(points) // len(values))]
            prompt = Prompt(kind=USER, label=self._label(result, image), coords=coords, point_labels=point_labels)
            check_prompt(prompt, where=f"clicks on {case}", labels=self.labels, shape=image.shape[1:])
            file_affine(image)
            add_prompts(result, [prompt])
        return result

    def _label(self, data: Mapping[Hashable, Any], image: MetaTensor) -> str:
        label = _request(data, image, "label")
        return label if isinstance(label, str) and label else self.label


def _request(data: Mapping[Hashable, Any], image: MetaTensor, name: str) -> Any:
    value = data[name] if name in data else image.meta.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        return json.loads(value)  # some clients send the list as text
    return value


def _array(data: Mapping[Hashable, Any], image: MetaTensor, name: str, case: str) -> np.ndarray:
    value = _request(data, image, name)
    try:
        return np.asarray([] if value is None else value, dtype=float)
    except (TypeError, ValueError) as error:
        msg = f"clicks on {case}: {name!r} must be a list of voxel indices such as [[30, 10, 5]], got {value!r}"
        raise ValueError(msg) from error


def _points(data: Mapping[Hashable, Any], image: MetaTensor, name: str, dims: int, case: str) -> list[list[float]]:
    points = _array(data, image, name, case)
    return _to_dims(points.reshape(1, -1) if points.ndim == 1 and points.size else points, dims)


def _box(data: Mapping[Hashable, Any], image: MetaTensor, dims: int, case: str) -> list[list[float]]:
    roi = _array(data, image, "roi", case)
    if not roi.size:
        return []
    corners = roi.reshape(-1, 2).T if roi.ndim == 1 and roi.size in (4, 6) else roi
    if corners.ndim != 2 or len(corners) != 2:
        msg = (
            f"clicks on {case}: 'roi' must be two corners [[i, j, k], [i, j, k]] or [i0, i1, j0, j1, k0, k1], "
            f"got {roi.tolist()}"
        )
        raise ValueError(msg)
    box = _to_dims(np.sort(corners, axis=0), dims)
    check_box(np.asarray(box), where=f"clicks on {case}")
    return box


def _to_dims(points: np.ndarray, dims: int) -> list[list[float]]:
    """Drop the third coordinate 0 that viewers send with pictures; anything else is left for the check to refuse."""
    if points.ndim == 2 and points.shape[1] == 3 and dims == 2 and not points[:, 2].any():
        points = points[:, :2]
    return points.tolist()
