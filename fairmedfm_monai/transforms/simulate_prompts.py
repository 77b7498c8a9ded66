"""Prompts drawn from a reference mask, for evaluation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from fairmedfm_monai.catalog.prompt_kinds import GRAMMAR, SIMULATED_BASES, USER, PromptKind, parse_kind
from fairmedfm_monai.transforms.prompt_checks import check_grid
from fairmedfm_monai.transforms.prompt_masks import encode_block
from fairmedfm_monai.transforms.prompt_objects import ObjectMask
from fairmedfm_monai.transforms.prompt_simulators import any_points, deepest_point, draw_prompt
from fairmedfm_monai.transforms.prompt_views import PER, View, views
from fairmedfm_monai.transforms.prompts import (
    SIMULATED_KINDS,
    Prompt,
    add_prompts,
    as_image,
    case_name,
    file_affine,
    label_values,
    voxel_spacing,
)

logger = logging.getLogger(__name__)

VOTE = "vote"


def box_prompt(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tight box (2, D) of a mask of 2 or 3 axes: first and last index of the object along each, both inclusive."""
    return _alone(mask).box


def center_prompt(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixel (1, D) of a mask of 2 or 3 axes that is deepest inside, see `deepest_point`; in pixels."""
    return deepest_point(_alone(mask))


def point_prompt(mask: np.ndarray, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """`count` distinct object pixels (N, D) of a mask, all equally likely; fewer if the object is smaller."""
    return any_points(_alone(mask), count, rng)


def _alone(mask: np.ndarray) -> ObjectMask:
    whole = ObjectMask(mask, np.zeros(mask.ndim, dtype=int), mask.shape, np.ones(mask.ndim))
    return whole.part(mask, whole.start)


class SimulatePromptsd(MapTransform):
    """Draw prompts from the reference mask and put them under ``prompts``.

    Runs right after loading, before any spatial transform: coordinates are voxel-centre indices of the image file. An
    image (1, H, W) gets one prompt per label and kind, a volume (1, H, W, D) as `per` says. A label that is absent
    gets none, which is logged. Every draw depends on nothing but the case id, `seed`, the label, the kind, the index
    of the slice, its axis and the number of the component: other labels and kinds change nothing.

    The kinds are those of `fairmedfm_monai.catalog.prompt_kinds`: ``box`` (tight, inclusive corners), ``center``
    (deepest point), ``point`` (one random object point), ``points`` (five distinct ones), ``mask`` (the reference
    itself), ``text`` (the label's name, once per case), each with its options; the rules stand in
    `fairmedfm_monai.transforms.prompt_simulators`. Kinds with correction clicks carry the reference mask of their
    object as ``target``, in the slice that was prompted or in the volume.

    Args:
        keys: key of the mask, integers in one channel, in the grid of its image.
        labels: label name -> value in the mask.
        kinds: names of kinds, such as box, box-j10, points-n3-neg2, point-d50, center-k5, box-cc.
        axis: the axis that numbers the slices, the one that the inferer is given; "vote" = all three, each prompt with
            its own. Means nothing to ``per="volume"`` and to images.
        per: "slice" = a prompt in every slice that holds the object, for models that see slices; "volume" = one in the
            volume, for models that see volumes; "key_slice" = one, in the slice with the largest area.
        seed: of the random draws.
        axcodes: the orientation that a later ``Orientationd`` turns the image to, e.g. "LPS"; `axis` then counts in
            that orientation, so that slices are cut the way the model will see them. None: `axis` counts in the file.
        image_key: key of the image, whose grid the mask must share.
        texts: label name -> words for text prompts; without an entry the name itself, "_" read as a blank.
        min_component: kinds with ``cc`` skip components of fewer pixels (of a slice) or voxels (of a volume), which is
            logged; the largest one of a slice or volume is always prompted.
        allow_missing_keys: do nothing for a case without mask.

    Raises:
        ValueError: unknown kind, axis or per; mask with several channels or in another grid than its image; an affine
            with a spacing of zero.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        labels: Mapping[str, int] | Sequence[str],
        kinds: Sequence[str] = SIMULATED_KINDS,
        axis: int | str = -1,
        per: str = "slice",
        seed: int = 0,
        axcodes: str | None = None,
        image_key: str = "image",
        texts: Mapping[str, str] | None = None,
        min_component: int = 10,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if per not in PER or (axis != VOTE and axis not in range(-3, 3)):
            msg = f"per must be one of {', '.join(PER)} and axis -3..2 or {VOTE!r}, got {per!r} and {axis!r}"
            raise ValueError(msg)
        self.labels, self.kinds = label_values(labels), _kinds(kinds)
        self.axis, self.per, self.seed, self.axcodes, self.image_key = axis, per, seed, axcodes, image_key
        self.texts, self.min_component = dict(texts or {}), min_component

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``prompts`` to a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask = as_image(result, key)
            image = as_image(result, self.image_key) if self.image_key in result else mask
            case = case_name(result, image)
            spacing = voxel_spacing(file_affine(image), where=case)
            _check_grid(mask, image, case)
            add_prompts(result, list(self._simulate(mask, spacing, case)))
        return result

    def _simulate(self, mask: MetaTensor, spacing: np.ndarray, case: str) -> Iterator[Prompt]:
        array = _integers(mask, max(self.labels.values()))
        regions = ndimage.find_objects(array, max_label=max(self.labels.values()))
        absent = [name for name, value in self.labels.items() if regions[value - 1] is None]
        if absent:
            level = logging.WARNING if len(absent) == len(self.labels) else logging.INFO
            logger.log(level, "%s: no prompt for %s: not in the mask", case, ", ".join(absent))
        axes = _axes(file_affine(mask), self.axis, self.axcodes) if array.ndim == 3 else {}
        for name, value in self.labels.items():
            region = regions[value - 1]
            if region is None:
                continue
            start = np.array([span.start for span in region])
            label = ObjectMask(array[region] == value, start, array.shape, spacing[: array.ndim])
            yield from self._texts(label, name)
            yield from self._drawn(label, name, case, axes)

    def _texts(self, label: ObjectMask, name: str) -> Iterator[Prompt]:
        for kind in self.kinds:
            if kind.base == "text":
                words = self.texts.get(name, name.replace("_", " "))
                prompt = Prompt(kind=kind.name, label=name, coords=[], point_labels=[], text=words)
                if kind.clicks:
                    prompt["target"] = encode_block(label.mask, label.start, label.shape)
                yield prompt

    def _drawn(self, label: ObjectMask, name: str, case: str, axes: Mapping[int, int]) -> Iterator[Prompt]:
        for components in (False, True):
            kinds = [kind for kind in self.kinds if kind.base != "text" and kind.components == components]
            if not kinds:
                continue
            least = self.min_component if components else None
            for view in views(label, per=self.per, axes=axes, least=least, where=f"{case}, {name}"):
                for kind in kinds:
                    yield self._prompt(view, kind, name, case)

    def _prompt(self, view: View, kind: PromptKind, name: str, case: str) -> Prompt:
        def draw(key: str) -> np.random.Generator:
            return _generator(case, self.seed, name, key, *view.draw_parts())

        drawn = draw_prompt(view.found, kind, draw, label=view.label)
        prompt = Prompt(
            kind=kind.name, label=name, coords=view.coords(drawn.coords), point_labels=list(drawn.point_labels)
        )
        if drawn.block is not None:
            prompt["mask"] = view.mask(*drawn.block)
        if kind.clicks:
            prompt["target"] = view.mask(view.found.mask, view.found.start)
        if self.axis == VOTE and view.axis is not None:
            prompt["axis"] = view.axis
        return prompt


def _kinds(kinds: Sequence[str]) -> tuple[PromptKind, ...]:
    if isinstance(kinds, str) or not kinds:
        msg = f"kinds must be a list of {', '.join(SIMULATED_BASES)} with their options, got {kinds!r}; {GRAMMAR}"
        raise ValueError(msg)
    try:
        parsed = tuple(parse_kind(kind) for kind in kinds)
    except ValueError as error:
        msg = f"kinds must be a list of {', '.join(SIMULATED_BASES)} with their options, got {kinds!r}: {error}"
        raise ValueError(msg) from error
    if any(kind.base == USER for kind in parsed):
        msg = f"kinds must be a list of {', '.join(SIMULATED_BASES)}, got {kinds!r}: prompts of users are not simulated"
        raise ValueError(msg)
    return parsed


def _generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on `parts` only, on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _integers(mask: MetaTensor, greatest: int) -> np.ndarray:
    """The mask (spatial) in the smallest type that holds `greatest`; whatever is not 1..`greatest` becomes 0.

    Readers hand on floats; they are converted piece by piece, because a copy of a large volume is a gigabyte.
    """
    source = mask.as_tensor()[0].cpu().numpy()
    result = np.zeros(source.shape, dtype=np.min_scalar_type(greatest))
    for values, target in zip(source, result, strict=True):
        rounded = np.rint(values)
        known = (rounded >= 1) & (rounded <= greatest)
        target[known] = rounded[known]
    return result


def _axes(affine: np.ndarray, axis: int | str, axcodes: str | None) -> dict[int, int]:
    """Axes along which slices are cut: number in the preprocessed image -> number in the file."""
    chosen = range(3) if axis == VOTE else [range(3)[int(axis)]]
    return {number: _file_axis(affine, number, axcodes) for number in chosen}


def _file_axis(affine: np.ndarray, axis: int, axcodes: str | None) -> int:
    """The axis of the file that becomes `axis` when the volume is turned to `axcodes`."""
    if axcodes is None:
        return axis
    world_axis = nib.orientations.axcodes2ornt(axcodes)[axis, 0]
    return int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == world_axis)[0])


def _check_grid(mask: MetaTensor, image: MetaTensor, case: str) -> None:
    if mask.shape[0] != 1 or mask.ndim not in (3, 4):
        msg = f"{case}: the mask must have one channel of integers, (1, H, W) or (1, H, W, D), got {tuple(mask.shape)}"
        raise ValueError(msg)
    check_grid(mask, image, where=case)
