"""Majority of three axes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from fairmedfm_monai.inferers.assembly import Assembly
from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.inferers.voting import majority

SHAPE = (7, 6, 5)


def test_logits_are_medians_and_masks_majorities() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 2, *SHAPE)).astype(np.float32)
    merged = majority([torch.tensor(part) for part in logits], "logits")
    np.testing.assert_array_equal(merged, np.median(logits, axis=0))
    masks = (logits > 0).astype(np.uint8)
    merged = majority([torch.tensor(part) for part in masks], "masks")
    np.testing.assert_array_equal(merged, masks.sum(axis=0) >= 2)


def test_a_label_needs_two_votes() -> None:
    votes = np.random.default_rng(0).integers(0, 4, (3, 1, *SHAPE)).astype(np.uint8)
    merged = majority([torch.tensor(part) for part in votes], "label_map").numpy()
    for index in np.ndindex(merged.shape):
        values, counts = np.unique(votes[(slice(None), *index)], return_counts=True)
        assert merged[index] == (values[counts.argmax()] if counts.max() >= 2 else 0)


def test_views_of_assemblies_along_different_axes() -> None:
    """The three results lie differently in memory."""
    logits = np.random.default_rng(1).normal(size=(3, 2, *SHAPE)).astype(np.float32)
    results = []
    for axis, part in enumerate(logits):
        assembly = Assembly(2, SHAPE, axis=axis)
        for channel in range(2):
            assembly.add(channel, (slice(None),) * 3, torch.tensor(part[channel]))
        results.append(assembly.result())
    np.testing.assert_array_equal(majority(results, "logits"), np.median(logits, axis=0))


class BoxFiller(nn.Module):
    """Fills its box, but is blind to pictures of one shape."""

    spatial_dims = 2
    accepts = frozenset({"box", "point"})
    tracks = False

    def __init__(self, blind: tuple[int, int] | None = None, wild: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.blind, self.wild = blind, wild
        self.seen: list[tuple[int, ...]] = []

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        self.seen += [tuple(picture.shape[1:]) for picture in image]
        return image[:, 0]

    def decode(self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor) -> Any:
        rows, columns = torch.meshgrid(*map(torch.arange, embedding.shape[1:]), indexing="ij")
        x0, y0, x1, y1 = (coords[..., corner, axis, None, None] for corner in (0, 1) for axis in (0, 1))
        inside = (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
        if tuple(embedding.shape[1:]) == self.blind:
            inside &= False
        if tuple(embedding.shape[1:]) == self.wild:
            inside |= True
        return torch.where(inside, 3.0, -3.0), torch.ones(labels.shape[:2])


def boxed(network: nn.Module, prompts: list[dict[str, Any]], **settings: Any) -> np.ndarray:
    image = MetaTensor(torch.zeros(1, 1, *SHAPE))
    image.meta["prompts"] = json.dumps(prompts)
    return PromptedInferer({"a": 3, "b": 9}, axis="vote", **settings)(image, network)[0].numpy()


def box(lower: list[int], upper: list[int], label: str = "a", **extra: Any) -> dict[str, Any]:
    return {"kind": "user", "label": label, "coords": [lower, upper], "point_labels": [2, 3], **extra}


@pytest.mark.parametrize("trouble", ["blind", "wild"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 7), (6, 7)])
def test_two_axes_outvote_the_third(trouble: str, shape: tuple[int, int]) -> None:
    expected = np.zeros((2, *SHAPE), dtype=bool)
    expected[0, 1:4, 2:5, 1:3], expected[1, 5:7, 0:2, 3:5] = True, True
    prompts = [box([1, 2, 1], [3, 4, 2]), box([5, 0, 3], [6, 1, 4], "b")]
    found = boxed(BoxFiller(**{trouble: shape}), prompts, output="masks")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(boxed(BoxFiller(**{trouble: shape}), prompts) > 0, expected)
    label_map = boxed(BoxFiller(blind=shape), prompts, output="label_map")
    np.testing.assert_array_equal(label_map[0], 3 * expected[0] + 9 * expected[1])


def test_prompts_of_one_axis_are_used_along_that_axis_only() -> None:
    network = BoxFiller()
    found = boxed(network, [box([1, 2, 2], [3, 4, 2], axis=2), box([1, 2, 1], [1, 4, 2], axis=0)], output="masks")
    assert network.seen == [(5, 6), (6, 7)]
    assert found[0].sum() == 3  # where the two planes cross


def test_an_image_has_no_axes() -> None:
    with pytest.raises(ValueError, match="axis 'vote' needs a volume"):
        PromptedInferer(["a"], axis="vote")(torch.zeros(1, 1, 8, 8), BoxFiller())
