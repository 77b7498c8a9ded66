"""Prompts from a file that a user wrote."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.prompt_files import FilePrompt, read_prompt_file
from fairmedfm_monai.transforms.prompts import (
    Prompt,
    add_prompts,
    as_image,
    case_name,
    check_prompt,
    file_affine,
    file_name,
    invert_affine,
    label_values,
    map_prompt,
)


class LoadPromptsd(MapTransform):
    """Put the prompts that a JSON or CSV file holds for a case under ``prompts``.

    Runs right after loading, like all writers of prompts. Entries belong to a case by its ``case_id`` or by the name
    of its image file. World coordinates (RAS millimetres) are turned into voxel indices of the image file, a world
    box into the smallest voxel box around its corners. The file is read and checked when the transform is built. Its
    format is told by `fairmedfm_monai.transforms.prompt_files.read_prompt_file`.

    Args:
        keys: key of the image.
        path: .json or .csv file; None or "" = do nothing.
        labels: names of the labels (or name -> value) that entries may ask for; None = any.
        allow_missing_keys: do nothing for a case without image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or an entry cannot be used; names file, entry, what was expected and what came.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        path: str | Path | None = None,
        labels: Mapping[str, int] | Sequence[str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = None if labels is None else list(label_values(labels))
        self.entries = read_prompt_file(path, self.labels) if path else []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the prompts of this case to ``prompts`` in a copy of `data`."""
        result = dict(data)
        if not self.entries:
            return result
        for key in self.key_iterator(result):
            image = as_image(result, key)
            names = {"case_id": str(result.get("case_id", "")), "file_name": file_name(image)}
            prompts = [self._to_voxels(entry, image) for entry in self.entries if entry.is_for(**names)]
            if prompts:
                file_affine(image)
                add_prompts(result, prompts)
        return result

    def _to_voxels(self, entry: FilePrompt, image: MetaTensor) -> Prompt:
        dims = image.ndim - 1
        prompt = entry.prompt
        if entry.space == "world":
            inverse = invert_affine(file_affine(image), where=case_name({}, image))
            prompt = _drop_third(map_prompt(_pad_third(prompt), inverse, half_voxel=0), dims)
        check_prompt(prompt, where=entry.where, labels=self.labels, shape=image.shape[1:])
        return prompt


def _pad_third(prompt: Prompt) -> Prompt:
    """World coordinates have three numbers, also for a picture (PNG), where the third may be left out."""
    coords = np.asarray(prompt["coords"])
    return Prompt(**{**prompt, "coords": np.pad(coords, ((0, 0), (0, 3 - coords.shape[1]))).tolist()})


def _drop_third(prompt: Prompt, dims: int) -> Prompt:
    """Keep the image's dimensions; a point off the plane of a 2D image keeps all three, for the check to refuse."""
    coords = np.asarray(prompt["coords"])
    if dims == 2 and (np.abs(coords[:, 2]) <= 0.5).all():
        coords = coords[:, :2]
    return Prompt(**{**prompt, "coords": coords.tolist()})
