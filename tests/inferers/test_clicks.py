"""Correction clicks: where they go, against brute force and against segment-anything's own predictor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from segment_anything import SamPredictor

from fairmedfm_monai.inferers.clicks import click_records, deepest_point, refine
from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter
from fairmedfm_monai.networks.segmenters.sam import SamCore, build_sam
from fairmedfm_monai.networks.spec import InputSpec


def brute_depth(region: np.ndarray) -> np.ndarray:
    """Distance of each voxel of a region to the nearest voxel, also outside the array, that is not of the region."""
    padded = np.pad(region, 1)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    depth = np.zeros(padded.shape)
    depth[tuple(inside.T)] = cdist(inside, outside).min(axis=1)
    return depth[(slice(1, -1),) * region.ndim]


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return smooth > np.quantile(smooth, 0.7)


class Brush(PromptableSegmenter):
    """A box gives everything in it, a first object point a ball; later clicks paint or erase a ball into the prior."""

    def __init__(self, dims: int, *, radius: float = 2.0, accepts: tuple[str, ...] = ("point", "box", "mask")) -> None:
        super().__init__(spatial_dims=dims, input_spec=InputSpec(size=8, mean=[0.0], std=[1.0], channels=1))
        self.radius, self.accepts = radius, frozenset(accepts)
        self.priors: list[torch.Tensor | None] = []

    def decode_low_res(self, embedding: Any, coords: Any, labels: Any, masks: Any = None, *, texts: Any = None) -> Any:
        self.priors.append(masks)
        grid = np.stack(np.meshgrid(*map(np.arange, embedding.original_size), indexing="ij"), axis=-1)
        found = np.full((*labels.shape[:2], *embedding.original_size), -3.0)
        for b, p in np.ndindex(*labels.shape[:2]):
            clicks = coords[b, p].numpy()
            clicks = clicks[:, ::-1] if self.spatial_dims == 2 else clicks
            mask = np.zeros(embedding.original_size, bool) if masks is None else masks[b, p].numpy() > 0
            if masks is None and 2 in labels[b, p]:
                lower, upper = (clicks[labels[b, p] == corner][0] for corner in (2, 3))
                mask = ((grid >= lower) & (grid <= upper)).all(-1)
            for click, label in zip(clicks, labels[b, p], strict=True):
                if label in (0, 1):
                    mask = np.where(((grid - click) ** 2).sum(-1) <= self.radius**2, bool(label), mask)
            found[b, p][mask] = 3.0
        return torch.tensor(found, dtype=torch.float32), torch.ones(labels.shape[:2])

    def upscale(self, low_res: torch.Tensor, embedding: ImageEmbedding) -> torch.Tensor:
        return low_res


def embedded(batch: int, *shape: int) -> ImageEmbedding:
    return ImageEmbedding(torch.zeros(batch, 1, *shape), shape, shape)


@pytest.mark.parametrize("shape", [(23, 31), (11, 9, 13)])
@pytest.mark.parametrize("seed", range(4))
def test_deepest_point_is_the_farthest_from_everything_else(shape: tuple[int, ...], seed: int) -> None:
    region = blob(shape, seed)
    depth = brute_depth(region)
    point = deepest_point(region)
    assert depth[point] == pytest.approx(depth.max())
    assert point == tuple(np.argwhere(np.isclose(depth, depth.max()))[0])


@pytest.mark.parametrize("shape", [(24, 30), (12, 10, 14)])
def test_each_click_hits_the_deepest_point_of_the_largest_error(shape: tuple[int, ...]) -> None:
    """Two images, two objects each; every click is checked by brute force against the masks before it."""
    network = Brush(len(shape))
    targets = torch.tensor(np.stack([[blob(shape, 2 * b + p) for p in range(2)] for b in range(2)]))
    coords = torch.full((2, 2, 1, len(shape)), 4.0)
    labels = torch.ones(2, 2, 1, dtype=torch.long)
    sent: list[tuple[Any, Any]] = []
    original = network.decode_low_res

    def spy(embedding: Any, coords: Any, labels: Any, masks: Any = None, **texts: Any) -> Any:
        sent.append((coords, labels))
        return original(embedding, coords, labels, masks, **texts)

    network.decode_low_res = spy  # type: ignore[method-assign]
    logits, dice = refine(network, embedded(2, *shape), coords, labels, targets, 5)
    assert dice.shape == (2, 2, 6)
    assert [labels.shape[-1] for _, labels in sent] == [1, 2, 3, 4, 5, 6]
    for b, p in np.ndindex(2, 2):
        target = targets[b, p].numpy()
        for step in range(1, 6):
            predicted = network.priors[step][b, p].numpy() > 0  # type: ignore[index]
            click = sent[step][0][b, p, -1].numpy()[:: -1 if len(shape) == 2 else 1].astype(int)
            missing = bool(target[tuple(click)])
            assert sent[step][1][b, p, -1] == int(missing)
            errors = [ndimage.label(part)[0] for part in (target & ~predicted, predicted & ~target)]
            largest = max(int(np.bincount(part.ravel())[1:].max(initial=0)) for part in errors)
            here = errors[0 if missing else 1]
            region = here == here[tuple(click)]
            assert here[tuple(click)] > 0
            assert region.sum() == largest
            assert brute_depth(region)[tuple(click)] == pytest.approx(brute_depth(region).max())
            expected = 2 * (predicted & target).sum() / (predicted.sum() + target.sum())
            assert dice[b, p, step - 1] == pytest.approx(expected)
        assert dice[b, p, -1] == pytest.approx(
            2 * ((logits[b, p].numpy() > 0) & target).sum() / ((logits[b, p].numpy() > 0).sum() + target.sum())
        )
    assert (dice[..., -1] > dice[..., 0]).all()


def test_right_masks_are_left_alone_and_padding_gets_no_click() -> None:
    """A perfect box keeps its Dice of 1 and its logits while its neighbour is corrected."""
    targets = torch.zeros(1, 3, 16, 16, dtype=torch.bool)
    targets[0, 0, 2:6, 3:9] = True
    targets[0, 1] = torch.tensor(blob((16, 16), 0))
    coords = torch.tensor([[[[3.0, 2], [8, 5]], [[3, 2], [8, 5]], [[0, 0], [0, 0]]]])
    labels = torch.tensor([[[2, 3], [2, 3], [-1, -1]]])
    network = Brush(2)
    logits, dice = refine(network, embedded(1, 16, 16), coords, labels, targets, 3)
    assert dice[0, 0].tolist() == [1.0] * 4
    assert torch.equal(logits[0, 0] > 0, targets[0, 0])
    assert dice[0, 1, -1] > dice[0, 1, 0]
    assert dice[0, 2].isnan().all()
    assert (logits[0, 2] < 0).all()


def test_stops_when_everything_is_right() -> None:
    targets = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    targets[0, 0, 2:6, 3:9] = True
    network = Brush(2)
    _, dice = refine(
        network, embedded(1, 16, 16), torch.tensor([[[[3.0, 2], [8, 5]]]]), torch.tensor([[[2, 3]]]), targets, 7
    )
    assert dice.shape == (1, 1, 8)
    assert len(network.priors) == 1


def test_a_model_without_mask_prompts_gets_the_clicks_alone() -> None:
    network = Brush(2, accepts=("point",))
    targets = torch.tensor(blob((16, 16), 0))[None, None]
    refine(network, embedded(1, 16, 16), torch.full((1, 1, 1, 2), 4.0), torch.ones(1, 1, 1).long(), targets, 2)
    assert network.priors == [None, None, None]


@pytest.mark.parametrize("with_box", [True, False])
def test_three_clicks_are_those_of_segment_anything(with_box: bool) -> None:
    """SamPredictor, fed by hand with the growing list of clicks and its own low-resolution logits."""
    torch.manual_seed(0)
    geometry = {"width": 16, "depth": 1, "heads": 2, "global_blocks": (0,), "image_size": 64, "patch_size": 16}
    sam = build_sam(**geometry, prompt_dim=32, decoder_mlp=32)
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    target = blob((40, 56), 3)
    predictor, network = SamPredictor(sam), SamCore(sam)
    predictor.set_image(picture)
    box = np.array([6.0, 5, 40, 33])
    points, signs, prior = np.zeros((0, 2)), np.zeros(0, dtype=int), None
    if not with_box:
        points, signs = np.array([[20.0, 17]]), np.array([1])
    expected = []
    with torch.no_grad():
        for step in range(4):
            logits, iou, low_res = predictor.predict(
                point_coords=points if len(points) else None,
                point_labels=signs if len(signs) else None,
                box=box if with_box else None,
                mask_input=prior,
                multimask_output=not with_box and step == 0,
                return_logits=True,
            )
            best = int(iou.argmax())
            prior, predicted = low_res[best : best + 1], logits[best] > 0
            expected.append(2 * (predicted & target).sum() / (predicted.sum() + target.sum()))
            errors = [ndimage.label(part)[0] for part in (target & ~predicted, predicted & ~target)]
            sizes = [np.bincount(part.ravel())[1:] for part in errors]
            missing = sizes[0].max(initial=0) >= sizes[1].max(initial=0)
            worst = errors[0 if missing else 1] == sizes[0 if missing else 1].argmax() + 1
            depth = brute_depth(worst)
            row, column = np.argwhere(np.isclose(depth, depth.max()))[0]
            points, signs = np.append(points, [[column, row]], axis=0), np.append(signs, int(missing))
        embedding = network.embed(torch.tensor(picture).permute(2, 0, 1)[None].float())
        first = [[6.0, 5], [40, 33]] if with_box else [[20.0, 17]]
        coords, labels = torch.tensor([[first]]), torch.tensor([[[2, 3] if with_box else [1]]])
        found, dice = refine(network, embedding, coords, labels, torch.tensor(target)[None, None], 3)
    np.testing.assert_allclose(found[0, 0], logits[best], atol=1e-4)
    np.testing.assert_allclose(dice[0, 0], expected, atol=1e-6)


def test_records_leave_objects_without_reference_out() -> None:
    records = click_records([(3, [0.5, 0.75]), (1, [0.1, 0.2]), (3, [float("nan")] * 2), (3, [0.25, 1.0])])
    assert records == [{"channel": 1, "dice": [[0.1, 0.2]]}, {"channel": 3, "dice": [[0.5, 0.75], [0.25, 1.0]]}]
    assert json.loads(json.dumps(records)) == records
