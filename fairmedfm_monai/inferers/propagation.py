"""One prompted slice segments a volume: from slice to slice by boxes, or by the network's own memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fairmedfm_monai.inferers.memory import run_batched
from fairmedfm_monai.inferers.slice_prompts import SlicePrompt, pad_prompts
from fairmedfm_monai.inferers.slices import Found, SliceRun
from fairmedfm_monai.transforms.prompts import BOX_LOWER, BOX_UPPER, OBJECT

if TYPE_CHECKING:
    from fairmedfm_monai.networks.segmenters.base import ImageEmbedding

# Embeddings kept between the two sweeps: more than enough for 600 slices of small models, 250 of SAM.
_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class StopRule:
    """How an object is carried to the next slice, and when it ends.

    The tight box of an object's mask, enlarged, is its prompt on the next slice. The object ends, and the mask found
    there is not used, where that mask is empty, has less than `shrink` or more than `growth` times the pixels of the
    mask before, lies elsewhere (`overlap`), has another brightness than the prompted object (`drift`), or a predicted
    IoU below `least_iou`. A model that was trained with an object in every prompt finds one everywhere: without the two
    middle rules it goes on in whatever lies beyond the object's end.

    Args:
        margin: by which each side of the box moves outward, as a share of the box's extent along that axis; at least
            one pixel.
        shrink: 0 = never. Objects end gently, so this is small.
        growth: at least 1. A leak into the surroundings shows as a jump.
        overlap: least share of the smaller of both masks that they have in common; 0 = not asked.
        drift: how far the mean intensity may be from that on the prompted slice, in standard deviations within the
            object there; inf = not asked.
        least_iou: 0 (default) = not asked, because several models never trained that estimate (MedSAM, FT-SAM).

    Raises:
        ValueError: a value out of its range.
    """

    margin: float = 0.05
    shrink: float = 0.25
    growth: float = 2.0
    overlap: float = 0.5
    drift: float = 2.0
    least_iou: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.overlap, self.least_iou)
        if not (
            min(self.margin, self.drift, *shares) >= 0 and max(shares) <= 1 and 0 <= self.shrink < 1 <= self.growth
        ):
            msg = (
                "expected margin and drift >= 0, 0 <= shrink < 1 <= growth, 0 <= overlap <= 1 and 0 <= least_iou <= 1, "
                f"got {self}"
            )
            raise ValueError(msg)

    def ends(self, mask: Tensor, picture: Tensor, track: _Track, iou: float) -> bool:
        """Whether an object ends where `mask` (rows, columns) is found on `picture` (rows, columns)."""
        area, before = int(mask.sum()), track.area
        if area == 0 or not self.shrink * before <= area <= self.growth * before or iou < self.least_iou:
            return True
        if int((mask & track.mask).sum()) < self.overlap * min(area, before):
            return True
        return abs(float(picture[mask].mean()) - track.mean) > self.drift * track.spread

    def enlarge(self, box: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """A box (2, 2) of inclusive corners x, y, enlarged and cut to a slice of `size` (columns, rows)."""
        margin = np.maximum(1.0, self.margin * (box[1] - box[0] + 1))
        return np.clip(np.stack([box[0] - margin, box[1] + margin]), 0, np.asarray(size) - 1)


@dataclass(frozen=True)
class _Track:
    """An object on its way.

    Attributes:
        prompt: the prompt it came from.
        mask: (rows, columns) of bool, where it was last.
        mean: intensity of the object on the prompted slice.
        spread: standard deviation of the intensity there.
    """

    prompt: SlicePrompt
    mask: Tensor
    mean: float = 0.0
    spread: float = math.inf

    @cached_property
    def area(self) -> int:
        """Pixels of the last mask."""
        return int(self.mask.sum())

    @cached_property
    def box(self) -> np.ndarray:
        """Inclusive corners (2, 2) x, y of the last mask."""
        return _tight_box(self.mask)


def propagate_boxes(run: SliceRun, slices: Mapping[int, Sequence[SlicePrompt]], *, stop: StopRule) -> None:
    """Carry each prompted object from its slice outward, both ways, by the box of its mask.

    All objects go through the slices together: one sweep upward, which also decodes the prompts themselves, and one
    downward. A slice is embedded once for all objects and both sweeps, unless more than 1 GiB of embeddings would have
    to be kept for the way back; then the lowest ones are made again. A slice on which the user prompted the same object
    (by the same prompt, or by one of the same label and kind that points into its box) keeps what that prompt found. A
    box or mask over several slices tells where its object ends; it is not carried further.

    Args:
        run: what to segment with, and where to put it.
        slices: from `split_by_slice`.
        stop: when an object ends.
    """
    if not slices:
        return
    last = max(slices)
    kept = _KeptEmbeddings(run)
    back: dict[int, list[_Track]] = {}
    active: list[_Track] = []
    for index in range(min(slices), len(run.pictures)):
        given = slices.get(index, ())
        active = [track for track in active if _goes_on(run, track, index, given)]
        if active or given:
            embedding = kept.get(index, keep=index < last)
            back[index], active = _step(run, embedding, index, given, active, stop)
            active += back[index]
    active = []
    for index in range(last - 1, -1, -1):
        active += back.pop(index + 1, [])
        active = [track for track in active if _goes_on(run, track, index, slices.get(index, ()))]
        if active:
            _, active = _step(run, kept.get(index), index, (), active, stop)


def _step(
    run: SliceRun,
    embedding: ImageEmbedding,
    index: int,
    given: Sequence[SlicePrompt],
    tracks: Sequence[_Track],
    stop: StopRule,
) -> tuple[list[_Track], list[_Track]]:
    """Decode a slice; objects that begin here by a `given` prompt, and those of `tracks` that did not end."""
    size = run.pictures.shape[-1], run.pictures.shape[-2]
    corners = np.array([BOX_LOWER, BOX_UPPER])
    asked = {}
    for track in tracks:
        plain = replace(track.prompt, text=None, mask=None, target=None, rounds=0)
        prompt = replace(plain, coords=stop.enlarge(track.box, size), point_labels=corners)
        asked[id(prompt)] = (prompt, track)
    begun, going = [], []
    picture = run.picture(index).mean(dim=0)
    for found in run.decode(embedding, [index], [[*given, *(prompt for prompt, _ in asked.values())]]):
        mask = found.logits > 0
        before = asked[id(found.prompt)][1] if id(found.prompt) in asked else None
        if before is None:
            run.add(found)
            if bool(mask.any()):
                inside = picture[mask]
                begun.append(_Track(found.prompt, mask, float(inside.mean()), float(inside.std(correction=0))))
        elif not stop.ends(mask, picture, before, found.iou):
            run.add(found)
            going.append(replace(before, mask=mask))
    return begun, going


def propagate_memory(run: SliceRun, slices: Mapping[int, Sequence[SlicePrompt]]) -> None:
    """Let a network that tracks objects by a memory of its own (the SAM 2 family) carry each prompt through the volume.

    Each prompt is one object. A box over several slices prompts the middle one and bounds the object; an object
    without bounds goes through all slices, the network itself tells where it is absent. A slice on which the user
    prompted the same object otherwise keeps what that prompt found, as in `propagate_boxes`.

    Args:
        run: with a network that has ``tracks``; its prompt batch is the number of objects that go together.
        slices: from `split_by_slice`.

    Raises:
        ValueError: the network does not track, or a prompt is a mask, a text or one with correction clicks.
    """
    if not run.network.tracks:
        msg = (
            f"{type(run.network).__name__} has no memory to propagate by; use propagation='box', or a segmenter of the "
            "SAM 2 family"
        )
        raise ValueError(msg)
    objects: dict[int, dict[int, SlicePrompt]] = {}
    for index, prompts in sorted(slices.items()):
        for prompt in prompts:
            _check_trackable(prompt)
            middle = None if prompt.bounds is None else sum(prompt.bounds) // 2
            if middle is None or index == middle:
                objects.setdefault(prompt.source, {})[index] = prompt

    def call(sources: Sequence[int]) -> None:
        _track(run, slices, [objects[source] for source in sources])

    for _ in run_batched(sorted(objects), run.prompt_batch, call):
        pass


def _track(
    run: SliceRun, slices: Mapping[int, Sequence[SlicePrompt]], objects: Sequence[Mapping[int, SlicePrompt]]
) -> None:
    """Send some objects, each a mapping slice -> prompt, through their slices."""
    samples = [next(iter(prompts.values())) for prompts in objects]
    bounds = [(0, len(run.pictures) - 1) if prompt.bounds is None else prompt.bounds for prompt in samples]
    indices = range(min(low for low, _ in bounds), max(high for _, high in bounds) + 1)
    nothing = SlicePrompt(0, np.zeros((0, 2)), np.zeros(0, dtype=int))
    prompts: dict[int, tuple[Tensor, Tensor]] = {}
    for index in sorted({index for prompted in objects for index in prompted}):
        coords, labels = pad_prompts([[prompted.get(index, nothing) for prompted in objects]], run.pictures.device)
        prompts[index] = coords[0], labels[0]
    network: Any = run.network  # `track` exists where `tracks` is true
    for index, logits in network.track(run.picture, indices, prompts):
        for prompt, (low, high), mask in zip(samples, bounds, logits, strict=True):
            track = _Track(prompt, mask > 0)
            others = [other for other in slices.get(index, ()) if other.source != prompt.source]
            if low <= index <= high and track.area and _goes_on(run, track, index, others):
                run.add(Found(index, prompt, mask, 1.0))
        run.bar.update(len(objects))


def _check_trackable(prompt: SlicePrompt) -> None:
    if prompt.mask is not None or prompt.text is not None or prompt.rounds:
        msg = (
            "propagation='memory' takes points and boxes, got a mask, a text or correction clicks; use propagation="
            "'box' for these kinds"
        )
        raise ValueError(msg)


def _goes_on(run: SliceRun, track: _Track, index: int, given: Iterable[SlicePrompt]) -> bool:
    """Whether an object may go to slice `index`, where the user has `given` prompts."""
    bounds = track.prompt.bounds
    if bounds is not None and not bounds[0] <= index <= bounds[1]:
        return False
    return not any(
        other.source == track.prompt.source
        or (other.channel == track.prompt.channel and _points_into(other, track.box, run.axis, index))
        for other in given
    )


def _points_into(prompt: SlicePrompt, box: np.ndarray, axis: int, index: int) -> bool:
    """Whether a prompt on slice `index` means something inside a box (2, 2) of inclusive corners x, y."""
    if prompt.text is not None:
        return True
    spots = [prompt.coords[prompt.point_labels >= OBJECT]]
    if prompt.mask is not None:
        spots.append(_tight_box(torch.from_numpy(prompt.mask.picture(axis, index))))
    ends = np.concatenate(spots)
    return bool((ends.min(axis=0) <= box[1]).all() and (ends.max(axis=0) >= box[0]).all())


def _tight_box(mask: Tensor) -> np.ndarray:
    """Inclusive corners (2, 2) x, y of a mask (rows, columns) of bool, zeros where it is empty."""
    rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
    if not rows:
        return np.zeros((2, 2))
    return np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], dtype=float)


class _KeptEmbeddings:
    """Embeddings of the upward sweep that the downward one may need, as many as fit."""

    def __init__(self, run: SliceRun) -> None:
        self.run = run
        self.kept: OrderedDict[int, ImageEmbedding] = OrderedDict()

    def get(self, index: int, *, keep: bool = False) -> ImageEmbedding:
        """The embedding of a slice; it is remembered only with `keep`."""
        embedding = self.kept.pop(index, None)
        if embedding is None:
            (embedding,) = run_batched([index], self.run.slice_batch, self.run.embed)
        if keep:
            self.kept[index] = embedding
            # The way back comes to the lowest slices, which are the oldest, last.
            while len(self.kept) * _bytes(embedding) > _KEPT_BYTES:
                self.kept.popitem(last=False)
        return embedding


def _bytes(value: Any) -> int:
    """Memory of all tensors in an embedding."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    return sum(map(_bytes, vars(value).values())) if hasattr(value, "__dict__") else 0
