"""From one slice to a volume: what is carried on, where it ends, what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import nn

from fairmedfm_monai.inferers import propagation
from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.inferers.propagation import StopRule

NEVER = StopRule(shrink=0.0, growth=1e9, overlap=0.0, drift=float("inf"))


class Follower(nn.Module):
    """Shows the object under a prompt: the connected piece of one intensity that fills most of the box, or the point.

    Pictures hold the value of the label as intensity.
    """

    spatial_dims = 2
    accepts = frozenset({"point", "box", "mask"})
    tracks = False

    def __init__(self, *, iou: Callable[[np.ndarray], float] = lambda mask: 1.0) -> None:
        super().__init__()
        self.iou = iou
        self.embedded = 0
        self.boxes: list[np.ndarray] = []

    def embed(self, image: torch.Tensor) -> Any:
        self.embedded += len(image)
        return image[:, 0].round()

    def decode(self, embedding: Any, coords: torch.Tensor, labels: torch.Tensor) -> Any:
        masks = np.zeros((*labels.shape[:2], *embedding.shape[1:]), dtype=bool)
        for b, p in np.ndindex(*labels.shape[:2]):
            masks[b, p] = self.mask(embedding[b].numpy(), coords[b, p].numpy(), labels[b, p].numpy())
        iou = [[self.iou(mask) for mask in row] for row in masks]
        return torch.where(torch.tensor(masks), 4.0, -4.0), torch.tensor(iou)

    def mask(self, picture: np.ndarray, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
        region = np.zeros_like(picture, dtype=bool)
        if (labels == 3).any():
            lower, upper = (coords[labels == corner][0] for corner in (2, 3))
            self.boxes.append(np.stack([lower, upper]))
            rows, columns = np.indices(picture.shape)
            region = (columns >= lower[0]) & (columns <= upper[0]) & (rows >= lower[1]) & (rows <= upper[1])
        else:
            for column, row in coords[labels == 1].astype(int):
                region[row, column] = True
        values = picture[region & (picture > 0)].astype(int)
        if not values.size:
            return np.zeros_like(region)
        pieces, _ = ndimage.label(picture == np.bincount(values).argmax())
        return np.isin(pieces, np.unique(pieces[region & (pieces > 0)]))


def ellipsoid(shape: tuple[int, ...], centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
    grid = np.indices(shape)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) <= 1


def two_organs() -> np.ndarray:
    """Two separate slanted ellipsoids on overlapping ranges of slices, a (1) low and b (2) high."""
    volume = np.zeros((40, 36, 30), dtype=np.uint8)
    low, high = np.zeros(volume.shape, bool), np.zeros(volume.shape, bool)
    for z in range(30):
        low[..., z] = ellipsoid((40, 36, 30), (10 + z / 8, 10, 11), (7, 6, 9))[..., z]
        high[..., z] = ellipsoid((40, 36, 30), (28 - z / 9, 25, 19), (6, 7, 9))[..., z]
    volume[low], volume[high] = 1, 2
    return volume


def box_on(mask: np.ndarray, index: int, label: str, **extra: Any) -> dict[str, Any]:
    pixels = np.argwhere(mask[..., index])
    coords = [[*pixels.min(axis=0).tolist(), index], [*pixels.max(axis=0).tolist(), index]]
    return {"kind": "user", "label": label, "coords": coords, "point_labels": [2, 3], **extra}


def point_at(*voxel: int, label: str = "a") -> dict[str, Any]:
    return {"kind": "user", "label": label, "coords": [list(voxel)], "point_labels": [1]}


def run(volume: np.ndarray, prompts: list[dict[str, Any]], network: Any = None, **settings: Any) -> np.ndarray:
    image = MetaTensor(torch.tensor(volume, dtype=torch.float32)[None, None])
    image.meta["prompts"] = json.dumps(prompts)
    settings = {"propagation": "box", "output": "masks", **settings}
    return PromptedInferer({"a": 1, "b": 2}, **settings)(image, network or Follower())[0].numpy()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_box_per_label_finds_whole_objects_with_one_embedding_per_slice(axis: int) -> None:
    volume = two_organs()
    turned = np.moveaxis(volume, 2, axis)
    network = Follower()
    prompts = [box_on(volume == 1, 6, "a"), box_on(volume == 2, 22, "b")]
    for prompt in prompts:
        for corner in prompt["coords"]:
            corner.insert(axis, corner.pop(2))
    found = run(turned, prompts, network, axis=axis, stop=NEVER)
    np.testing.assert_array_equal(found, np.stack([turned == 1, turned == 2]))
    # Slices with an object, and the one after each end where it is found to be empty.
    slices = np.flatnonzero(volume.any(axis=(0, 1)))
    ends = {edge for value in (1, 2) for edge in _ends(volume == value)}
    assert network.embedded == len(set(slices) | ends)


def _ends(mask: np.ndarray) -> tuple[int, int]:
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    return int(slices[0]) - 1, int(slices[-1]) + 1


def test_default_rule_follows_a_tapering_object() -> None:
    """Only the tips, a small share of the object, are lost."""
    volume = two_organs()
    found = run(volume, [box_on(volume == 1, 11, "a"), point_at(26, 25, 19, label="b")])
    for channel, value in zip(found, (1, 2), strict=True):
        both = (channel > 0) & (volume == value)
        assert 2 * both.sum() / (channel.sum() + (volume == value).sum()) > 0.97


def test_forgetting_embeddings_changes_only_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = two_organs()
    prompts = [box_on(volume == 1, 6, "a"), box_on(volume == 2, 22, "b")]
    kept, forgetful = Follower(), Follower()
    expected = run(volume, prompts, kept)
    monkeypatch.setattr(propagation, "_KEPT_BYTES", 0)
    np.testing.assert_array_equal(run(volume, prompts, forgetful), expected)
    assert kept.embedded < forgetful.embedded <= 2 * kept.embedded


def test_kept_embeddings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested tensors count, and the lowest slices are forgotten first."""
    assert propagation._bytes([torch.zeros(3, 5), (torch.zeros(2, dtype=torch.float16),), None]) == 64
    monkeypatch.setattr(propagation, "_KEPT_BYTES", 3 * 8 * 4)
    job: Any = type(
        "Run", (), {"slice_batch": propagation_batch(), "embed": lambda self, i: torch.full((8,), float(i[0]))}
    )()
    cache = propagation._KeptEmbeddings(job)
    for index in range(6):
        cache.get(index, keep=True)
    assert list(cache.kept) == [3, 4, 5]
    assert cache.get(4)[0] == 4
    assert list(cache.kept) == [3, 5]


def propagation_batch() -> Any:
    from fairmedfm_monai.inferers.memory import BatchSize

    return BatchSize("slice_batch", 8)


def steps(areas: Sequence[int]) -> np.ndarray:
    """A bar whose area on slice k is 10 x areas[k]."""
    volume = np.zeros((60, 14, len(areas)), dtype=np.uint8)
    for index, area in enumerate(areas):
        volume[2 : 2 + area, 2:12, index] = 1
    return volume


@pytest.mark.parametrize(
    ("areas", "rule", "reached"),
    [
        ([8, 8, 8, 0, 8], StopRule(), {0, 1, 2}),
        ([8, 8, 5, 3, 2, 1], StopRule(), {0, 1, 2, 3, 4, 5}),
        ([8, 8, 5, 1, 1], StopRule(), {0, 1, 2}),
        ([8, 8, 5, 1, 1], StopRule(shrink=0.1), {0, 1, 2, 3, 4}),
        ([8, 10, 20, 21], StopRule(), {0, 1, 2, 3}),
        ([8, 10, 21, 21], StopRule(), {0, 1}),
        ([8, 10, 21, 21], StopRule(growth=3.0), {0, 1, 2, 3}),
    ],
)
def test_stop_rule(areas: list[int], rule: StopRule, reached: set[int]) -> None:
    volume = steps(areas)
    found = run(volume, [point_at(3, 5, 0)], stop=rule)[0]
    assert set(np.flatnonzero(found.any(axis=(0, 1)))) == reached
    # The same downward.
    found = run(volume[..., ::-1].copy(), [point_at(3, 5, len(areas) - 1)], stop=rule)[0]
    assert set(np.flatnonzero(found.any(axis=(0, 1)))) == {len(areas) - 1 - index for index in reached}


def test_stops_below_a_predicted_iou() -> None:
    volume = steps([8, 8, 7, 6, 6])
    network = Follower(iou=lambda mask: mask.sum() / 80)
    found = run(volume, [point_at(3, 5, 0)], network, stop=StopRule(least_iou=0.8))[0]
    assert set(np.flatnonzero(found.any(axis=(0, 1)))) == {0, 1, 2}


@pytest.mark.parametrize(("shift", "reached"), [(5, {0, 1}), (6, {0})])
def test_stops_where_the_mask_lies_elsewhere(shift: int, reached: set[int]) -> None:
    volume = np.zeros((40, 14, 2), dtype=np.uint8)
    volume[10:20, 2:12, 0] = volume[10 + shift : 20 + shift, 2:12, 1] = 1
    found = run(volume, [point_at(14, 5, 0)])[0]
    assert set(np.flatnonzero(found.any(axis=(0, 1)))) == reached
    everywhere = run(volume, [point_at(14, 5, 0)], stop=StopRule(overlap=0.0))[0]
    assert set(np.flatnonzero(everywhere.any(axis=(0, 1)))) == {0, 1}


class Shapes(Follower):
    """Follows shapes of any brightness."""

    def embed(self, image: torch.Tensor) -> Any:
        return super().embed((image > 0).float())


@pytest.mark.parametrize(("added", "reached"), [(1.9, {0, 1}), (2.1, {0}), (-2.1, {0})])
def test_stops_where_the_object_has_another_brightness(added: float, reached: set[int]) -> None:
    volume = np.zeros((20, 14, 2))
    volume[4:14, 2:12] = 10
    volume[4:14:2, 2:12] = 12  # mean 11, standard deviation 1
    volume[4:14, 2:12, 1] += added
    found = run(volume, [point_at(8, 5, 0)], Shapes())[0]
    assert set(np.flatnonzero(found.any(axis=(0, 1)))) == reached


def test_boxes_of_the_next_slice_are_tight_plus_margin() -> None:
    volume = steps([40, 40])
    network = Follower()
    run(volume, [point_at(3, 5, 0)], network, stop=StopRule(margin=0.1))
    # Columns 2..41 (40 wide: 4 more on each side, cut at 0), rows 2..11 (10 high: 1 more).
    assert network.boxes[0].tolist() == [[0, 1], [45, 12]]
    network = Follower()
    run(volume, [point_at(3, 5, 0)], network, stop=StopRule(margin=0.0))
    assert network.boxes[0].tolist() == [[1, 1], [42, 12]]


def test_slices_that_the_user_prompted_are_not_overwritten() -> None:
    """On slice 4 the user boxes the left half only: that half stays, also for what is carried on from there."""
    volume = steps([20] * 8)
    volume[11, :, 4] = 0  # on slice 4 the bar is in two pieces, 9 and 10 wide
    correction = {"kind": "user", "label": "a", "coords": [[2, 2, 4], [10, 11, 4]], "point_labels": [2, 3]}
    found = run(volume, [point_at(3, 5, 0), correction], stop=NEVER)[0]
    assert found[..., 4].sum() == 9 * 10
    assert found[..., 3].sum() == found[..., 5].sum() == 20 * 10


def test_another_object_of_the_label_on_the_way_stops_nothing() -> None:
    """Two kidneys, prompted on different slices."""
    volume = steps([10] * 8)
    volume[30:40, 2:12] = 1
    found = run(volume, [point_at(3, 5, 1), point_at(33, 5, 6)])[0]
    np.testing.assert_array_equal(found, volume)


def test_a_box_over_several_slices_bounds_its_object() -> None:
    volume = steps([10] * 8)
    box = {"kind": "user", "label": "a", "coords": [[2, 2, 2], [11, 11, 5]], "point_labels": [2, 3]}
    found = run(volume, [box])[0]
    assert set(np.flatnonzero(found.any(axis=(0, 1)))) == {2, 3, 4, 5}


def test_label_map_and_logits_agree() -> None:
    volume = two_organs()
    prompts = [box_on(volume == 1, 6, "a"), box_on(volume == 2, 22, "b")]
    label_map = run(volume, prompts, output="label_map", stop=NEVER)
    np.testing.assert_array_equal(label_map[0], volume)
    logits = run(volume, prompts, output="logits", stop=NEVER)
    np.testing.assert_array_equal(logits > 0, np.stack([volume == 1, volume == 2]))


def test_one_slice_and_no_prompt() -> None:
    assert run(steps([5]), [point_at(3, 5, 0)])[0].sum() == 50
    assert run(steps([5, 5]), [])[0].sum() == 0
    assert run(steps([0, 5]), [point_at(3, 5, 0)])[0].sum() == 0


class Tracker(Follower):
    """Carries what a prompt shows through all slices by its intensity, as a video model would."""

    tracks = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[int], dict[int, Any]]] = []

    def track(
        self,
        frames: Callable[[int], torch.Tensor],
        indices: Sequence[int],
        prompts: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
    ) -> Iterator[tuple[int, torch.Tensor]]:
        self.calls.append((list(indices), dict(prompts)))
        objects = len(next(iter(prompts.values()))[1])
        values = [0] * objects
        for index, (coords, labels) in prompts.items():
            picture = frames(index)[0].numpy()
            assert frames(index).shape == (3, *picture.shape)
            for p in range(objects):
                mask = self.mask(picture, coords[p].numpy(), labels[p].numpy())
                values[p] = int(picture[mask].max()) if mask.any() else values[p]
        for index in indices:
            picture = frames(index)[0]
            yield index, torch.stack([torch.where((picture == v) & (picture > 0), 4.0, -4.0) for v in values])


def test_memory_tracks_every_prompt_through_the_volume() -> None:
    volume = two_organs()
    network = Tracker()
    prompts = [box_on(volume == 1, 6, "a"), box_on(volume == 2, 22, "b")]
    found = run(volume, prompts, network, propagation="memory")
    np.testing.assert_array_equal(found, np.stack([volume == 1, volume == 2]))
    ((indices, sent),) = network.calls
    assert indices == list(range(30))
    assert sorted(sent) == [6, 22]
    assert sent[6][1].tolist() == [[2, 3], [-1, -1]]
    assert sent[22][0].shape == (2, 2, 2)


def test_memory_goes_in_batches_of_prompts_and_stays_within_boxes() -> None:
    volume = two_organs()
    network = Tracker()
    pixels = np.argwhere(volume == 1)
    corners = [[*pixels.min(axis=0)[:2].tolist(), 5], [*pixels.max(axis=0)[:2].tolist(), 9]]
    bounded = {"kind": "user", "label": "a", "coords": corners, "point_labels": [2, 3]}
    prompts = [bounded, box_on(volume == 2, 22, "b")]
    found = run(volume, prompts, network, propagation="memory", prompt_batch=1)
    assert [(indices[0], indices[-1], sorted(sent)) for indices, sent in network.calls] == [(5, 9, [7]), (0, 29, [22])]
    assert set(np.flatnonzero(found[0].any(axis=(0, 1)))) == {5, 6, 7, 8, 9}
    np.testing.assert_array_equal(found[1], volume == 2)


def test_bad_input() -> None:
    volume = two_organs()
    with pytest.raises(ValueError, match=r"Follower has no memory.*propagation='box'"):
        run(volume, [point_at(26, 25, 19)], propagation="memory")
    mask = {"shape": list(volume.shape), "counts": [10, 5, volume.size - 15]}
    prompt = {"kind": "user", "label": "a", "coords": [], "point_labels": [], "mask": mask}
    with pytest.raises(ValueError, match="takes points and boxes"):
        run(volume, [prompt], Tracker(), propagation="memory")
    for way in ("box", "memory"):
        with pytest.raises(ValueError, match=f"propagation '{way}' needs a volume"):
            run(volume[..., 0], [], Tracker(), propagation=way)
    for wrong in ({"margin": -1}, {"shrink": 1.0}, {"growth": 0.5}, {"least_iou": 2}, {"overlap": 2}, {"drift": -1}):
        with pytest.raises(ValueError, match="0 <= shrink < 1 <= growth"):
            StopRule(**wrong)
