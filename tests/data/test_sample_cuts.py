from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fairmedfm_monai.data.sample_cuts import SliceCutter, WindowCutter
from fairmedfm_monai.networks.segmenters.volume import VolumeSpec


class TestSlices:
    def test_slices_that_hold_a_label_come_upright_and_in_order(self) -> None:
        image = torch.arange(4 * 5 * 6).reshape(1, 4, 5, 6).float()
        label = torch.zeros(4, 5, 6, dtype=torch.uint8)
        label[1, 2:4, 1] = 1
        label[0:3, 0, 4] = 2
        label[3, 3, 5] = 1  # a single pixel: too small
        cuts = list(SliceCutter(axis=-1, min_pixels=2)(image, label))
        assert [picture.shape for picture, _ in cuts] == [(1, 5, 4)] * 2
        for (picture, labelled), index in zip(cuts, (1, 4), strict=True):
            np.testing.assert_array_equal(picture[0], image[0, :, :, index].numpy().T)
            np.testing.assert_array_equal(labelled, label[:, :, index].numpy().T)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_any_axis(self, axis: int) -> None:
        label = torch.ones(4, 5, 6, dtype=torch.uint8)
        cuts = list(SliceCutter(axis=axis)(torch.zeros(1, 4, 5, 6), label))
        shape = [size for number, size in enumerate((4, 5, 6)) if number != axis]
        assert len(cuts) == (4, 5, 6)[axis]
        assert cuts[0][1].shape == tuple(reversed(shape))

    def test_an_image_is_one_slice_and_is_rounded_to_eight_bits(self) -> None:
        image = torch.tensor([[[0.4, 0.6], [254.6, 300.0]]])
        ((picture, labelled),) = SliceCutter(min_pixels=1)(image, torch.eye(2, dtype=torch.uint8))
        assert picture.tolist() == [[[0, 255], [1, 255]]]
        assert picture.dtype == np.uint8
        assert labelled.tolist() == [[1, 0], [0, 1]]

    def test_zero_keeps_empty_slices(self) -> None:
        empty = torch.zeros(4, 4, 3, dtype=torch.uint8)
        assert len(list(SliceCutter(min_pixels=0)(torch.zeros(1, 4, 4, 3), empty))) == 3
        assert not list(SliceCutter(min_pixels=1)(torch.zeros(1, 4, 4, 3), empty))

    def test_an_axis_that_does_not_exist(self) -> None:
        with pytest.raises(ValueError, match="`axis` must be one axis of a volume"):
            SliceCutter(axis=3)


@dataclass
class Network:
    """What a cutter asks of a model of volumes."""

    volume_spec: VolumeSpec

    def prepare(self, volume: torch.Tensor) -> torch.Tensor:
        return volume * 2


def cutter(window: tuple[int, int, int] = (8, 8, 8), *, zoom: bool = False, min_voxels: int = 1) -> WindowCutter:
    return WindowCutter(Network(VolumeSpec(window, zoom=zoom)), min_voxels=min_voxels)


class TestWindows:
    def test_a_small_label_gets_one_window_centred_on_its_box(self) -> None:
        image, label = torch.rand(1, 20, 20, 20), torch.zeros(20, 20, 20, dtype=torch.uint8)
        label[10:14, 6:8, 9:10] = 1
        ((window, labelled),) = cutter()(image, label)
        np.testing.assert_array_equal(window, image[:, 8:16, 3:11, 5:13].numpy() * 2)
        assert labelled.sum() == label.sum()

    def test_outside_the_volume_there_is_zero(self) -> None:
        label = torch.zeros(6, 6, 6, dtype=torch.uint8)
        label[0, 0, 0] = 3
        ((window, labelled),) = cutter()(torch.ones(1, 6, 6, 6), label)
        assert window.sum() == 2 * np.prod([8 - 4] * 3)  # the window begins at -4
        assert np.argwhere(labelled).tolist() == [[4, 4, 4]]

    def test_a_large_label_is_covered(self) -> None:
        label = torch.zeros(8, 8, 30, dtype=torch.uint8)
        label[2:5, 2:5, 1:28] = 1
        place = torch.arange(label.numel()).reshape(1, *label.shape).float() / 2
        seen = np.concatenate([window[0][labelled == 1] for window, labelled in cutter()(place, label)])
        assert set(seen.astype(int).tolist()) == set(torch.nonzero(label.flatten()).flatten().tolist())

    def test_zero_tiles_the_whole_volume(self) -> None:
        place = torch.arange(20**3).reshape(1, 20, 20, 20).float() / 2
        windows = list(cutter(min_voxels=0)(place, torch.zeros(20, 20, 20, dtype=torch.uint8)))
        assert len(windows) == 27
        assert len(np.unique(np.concatenate([window.ravel() for window, _ in windows]))) == 20**3

    def test_a_model_that_zooms_also_sees_the_whole_volume(self) -> None:
        label = torch.zeros(16, 16, 16, dtype=torch.uint8)
        label[8:, 8:, 8:] = 1
        (whole, labelled), *_ = cutter(zoom=True)(torch.ones(1, 16, 16, 16), label)
        assert whole.shape == (1, 8, 8, 8)
        np.testing.assert_array_equal(labelled, label[::2, ::2, ::2].numpy())
