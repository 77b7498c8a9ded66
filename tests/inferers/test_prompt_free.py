from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from fairmedfm_monai.inferers import PromptFreeInferer
from fairmedfm_monai.inferers.prompt_free import leads
from fairmedfm_monai.networks.segmenters.volume import VolumeSpec

LABELS = {"liver": 1, "spleen": 5}


class Oracle(nn.Module):
    """Says class 1 where the picture is about 100 and class 2 where it is about 200."""

    spatial_dims = 2
    num_labels = 2

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        grey = image[:, :1]
        return -torch.cat([(grey - value).abs() for value in (0, 100, 200)], dim=1)


class VolumeOracle(Oracle):
    """The same for windows of 2 mm voxels."""

    spatial_dims = 3

    def __init__(self, window: tuple[int, int, int] = (16, 16, 16)) -> None:
        super().__init__()
        self.segmenter = SimpleNamespace(volume_spec=VolumeSpec(window, spacing=2.0), prepare=lambda volume: volume)


def volume() -> tuple[Tensor, np.ndarray]:
    """(1, 1, 24, 20, 10) and its label map."""
    grey = torch.zeros(1, 1, 24, 20, 10)
    grey[..., 3:12, 4:16, 2:8], grey[..., 14:22, 2:9, 1:5] = 100, 200
    return grey, np.select([grey[0, 0] == 100, grey[0, 0] == 200], [1, 5])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("output", ["masks", "label_map"])
def test_slices_come_back_where_they_were(axis: int, output: str) -> None:
    grey, expected = volume()
    network = Oracle()
    pred = PromptFreeInferer(LABELS, axis=axis, output=output, slice_batch=4)(grey, network)
    if output == "masks":
        assert pred.shape == (1, 2, 24, 20, 10)
        np.testing.assert_array_equal(pred[0].numpy(), np.stack([expected == 1, expected == 5]))
    else:
        np.testing.assert_array_equal(pred[0, 0].numpy(), expected)
    assert all(shape[1] == 3 and shape[0] <= 4 for shape in network.shapes)
    assert sum(shape[0] for shape in network.shapes) == (24, 20, 10)[axis]


def test_an_image_is_one_slice_and_stands_upright() -> None:
    grey, expected = volume()
    network = Oracle()
    pred = PromptFreeInferer(LABELS, output="label_map")(grey[..., 3], network)
    np.testing.assert_array_equal(pred[0, 0].numpy(), expected[..., 3])
    assert network.shapes == [(1, 3, 20, 24)]


def test_meta_data_stay() -> None:
    image = MetaTensor(volume()[0], affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    pred = PromptFreeInferer(LABELS)(image, Oracle())
    torch.testing.assert_close(pred.affine, image.affine)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0)])
def test_windows_are_resampled_there_and_back(spacing: tuple[float, ...]) -> None:
    grey, expected = volume()
    image = MetaTensor(grey, affine=torch.diag(torch.tensor([*spacing, 1.0])))
    network = VolumeOracle()
    pred = PromptFreeInferer(LABELS, output="label_map")(image, network)
    assert {shape[1:] for shape in network.shapes} == {(1, 16, 16, 16)}
    found = pred[0, 0].numpy()
    if spacing == (2.0, 2.0, 2.0):  # the model's own grid: nothing is interpolated
        np.testing.assert_array_equal(found, expected)
        return
    for value in LABELS.values():
        both = 2 * ((found == value) & (expected == value)).sum() / ((found == value).sum() + (expected == value).sum())
        assert both > 0.8  # a border of half a voxel of 2 mm on objects of 5 to 18 mm


def test_leads_are_positive_for_the_largest_alone() -> None:
    logits = torch.randn(2, 4, 5, 5)
    found = leads(logits)
    winner = logits.argmax(1)
    for label in (1, 2, 3):
        torch.testing.assert_close(found[:, label - 1] > 0, winner == label)
    top = logits.sort(dim=1).values
    torch.testing.assert_close(found.amax(1)[winner > 0], (top[:, -1] - top[:, -2])[winner > 0])


def test_bad_input() -> None:
    grey, _ = volume()
    with pytest.raises(ValueError, match="the network knows 2 labels, but 1 were given"):
        PromptFreeInferer({"liver": 1})(grey, Oracle())
    with pytest.raises(ValueError, match="got shape"):
        PromptFreeInferer(LABELS)(grey[..., 0], VolumeOracle())
    with pytest.raises(ValueError, match="output must be one of"):
        PromptFreeInferer(LABELS, output="logits")
    with pytest.raises(ValueError, match=r"(?i)nan|finite"):
        PromptFreeInferer(LABELS)(torch.full_like(grey, torch.nan), Oracle())
