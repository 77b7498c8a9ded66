"""Prompts from a file that a user wrote."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from fairmedfm_monai.transforms.load import CaseReader
from fairmedfm_monai.transforms.prompt_checks import check_grid, check_prompt
from fairmedfm_monai.transforms.prompt_entries import FilePrompt
from fairmedfm_monai.transforms.prompt_files import read_prompt_file
from fairmedfm_monai.transforms.prompt_masks import encode_mask
from fairmedfm_monai.transforms.prompts import (
    Prompt,
    add_prompts,
    as_image,
    case_name,
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
    box into the smallest voxel box around its corners. A mask file must be in the grid of its image. The prompts file
    is read and checked when the transform is built; its format is told by
    `fairmedfm_monai.transforms.prompt_files.read_prompt_file`.

    Args:
        keys: key of the image.
        path: .json or .csv file; None or "" = do nothing.
        labels: names of the labels (or name -> value) that entries may ask for; None = any.
        kind: take only the entries of this kind; those that users write are of kind ``user``, those that an evaluation
            saved of the simulated kinds. None = all.
        allow_missing_keys: do nothing for a case without image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or an entry cannot be used, or none is of `kind`; names file, entry, what was expected and
            what came.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        path: str | Path | None = None,
        labels: Mapping[str, int] | Sequence[str] | None = None,
        kind: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = None if labels is None else list(label_values(labels))
        entries = read_prompt_file(path, self.labels) if path else []
        self.entries = [entry for entry in entries if kind is None or entry.prompt["kind"] == kind]
        if entries and not self.entries:
            known = ", ".join(sorted({entry.prompt["kind"] for entry in entries}))
            msg = f"{path}: no prompt of kind {kind!r}, only of {known}; give one of these as the kind"
            raise ValueError(msg)

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
        prompt = entry.prompt.copy()
        if entry.space == "world" and prompt["coords"]:
            prompt["coords"] = _world_to_voxels(prompt, image)
        if entry.mask_file is not None:
            prompt["mask"] = encode_mask(_read_mask(entry.mask_file, entry.mask_value, image, entry.where))
        check_prompt(prompt, where=entry.where, labels=self.labels, shape=image.shape[1:])
        return prompt


def _world_to_voxels(prompt: Prompt, image: MetaTensor) -> list[list[float]]:
    """Voxel indices of world coordinates.

    These have three numbers, also for a picture (PNG), where the third may be left out. A point off the plane of a 2D
    image keeps all three, for the check to refuse.
    """
    inverse = invert_affine(file_affine(image), where=case_name({}, image))
    coords = np.asarray(prompt["coords"])
    padded = np.pad(coords, ((0, 0), (0, 3 - coords.shape[1]))).tolist()
    bare = Prompt(kind=prompt["kind"], label=prompt["label"], coords=padded, point_labels=prompt["point_labels"])
    voxels = np.asarray(map_prompt(bare, inverse, half_voxel=0)["coords"])
    in_plane = image.ndim == 3 and (np.abs(voxels[:, 2]) <= 0.5).all()
    return (voxels[:, :2] if in_plane else voxels).tolist()


def _read_mask(path: Path, value: int | None, image: MetaTensor, where: str) -> np.ndarray:
    """The object (bool, spatial) that a mask file shows in the grid of `image`.

    Raises:
        ValueError: several channels, another grid, several values without a `value` to choose, or no object.
    """
    mask = LoadImage(reader=CaseReader, ensure_channel_first=True)(path)
    where = f"{where}, mask {path.name}"
    if len(mask) != 1:
        msg = f"{where}: expected one channel of integers, got shape {tuple(mask.shape)}; save it as a grey image"
        raise ValueError(msg)
    # Affines of pictures say nothing: they depend on the reader.
    check_grid(mask, image, where=where, affines=image.ndim == 4)
    array = mask.as_tensor()[0].numpy()
    values = np.unique(array[array != 0])
    if value is None and len(values) > 1:
        msg = f"{where}: several values ({', '.join(f'{v:g}' for v in values[:8])}); say which in 'mask_value'"
        raise ValueError(msg)
    found = array != 0 if value is None else array == value
    if not found.any():
        msg = f"{where}: holds no object{'' if value is None else f' of value {value}'}"
        raise ValueError(msg)
    return found
