from __future__ import annotations

import pytest
import torch

from fairmedfm_monai.transforms import ForgetSpatialShaped, MatchChannelsd


def test_grey_is_repeated_and_colours_are_averaged() -> None:
    grey, colour = torch.rand(1, 4, 5), torch.rand(3, 4, 5, 2)
    repeated = MatchChannelsd("image", channels=3)({"image": grey})["image"]
    assert all(torch.equal(channel, grey[0]) for channel in repeated)
    averaged = MatchChannelsd("image", channels=1)({"image": colour})["image"]
    torch.testing.assert_close(averaged[0], (colour[0] + colour[1] + colour[2]) / 3)
    assert MatchChannelsd("image", channels=3)({"image": colour})["image"] is colour


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="has 4 channels, the model takes 3"):
        MatchChannelsd("image", channels=3)({"image": torch.rand(4, 2, 2)})


def test_the_shape_is_forgotten_and_nothing_else() -> None:
    from monai.data import MetaTensor

    image = MetaTensor(torch.rand(1, 4, 4), meta={"spatial_shape": (8, 8), "filename_or_obj": "a.png"})
    result = ForgetSpatialShaped("image")({"image": image, "pred": torch.ones(2)})
    assert result["image"].meta["spatial_shape"] == ()
    assert result["image"].meta["filename_or_obj"] == "a.png"
    assert ForgetSpatialShaped("image")({"pred": torch.ones(2)})["pred"].sum() == 2
