from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fairmedfm_monai.transforms import SamplePromptsd, SampleSized
from fairmedfm_monai.transforms.sample_prompts import kind_labels


def item(label: np.ndarray, *, epoch: int = 1, case: str = "a", sample: int = 0) -> dict[str, Any]:
    return {"label": torch.from_numpy(label.astype(np.uint8))[None], "epoch": epoch, "case_id": case, "sample": sample}


@pytest.fixture
def label() -> np.ndarray:
    """Two objects in a picture of 100 rows and 200 columns."""
    found = np.zeros((100, 200), np.uint8)
    found[20:40, 50:90], found[60:63, 10:13] = 1, 2
    return found


class TestBoxes:
    def test_sides_move_outwards_by_at_most_20_of_1024_pixels(self, label: np.ndarray) -> None:
        draw = SamplePromptsd(kinds=["box"], grid=50, min_voxels=100)
        boxes = np.stack([draw(item(label, epoch=epoch))["coords"][0].numpy() for epoch in range(200)])
        shifts = (boxes - [[50, 20], [89, 39]]) * [[-1], [1]]  # x is the column
        assert shifts.min() == 0
        assert shifts.max() == round(20 / 1024 * 200)
        # All five shifts are equally likely: each of them comes within 5 standard deviations of a fifth of the time.
        share = np.array([(shifts == shift).mean() for shift in range(5)])
        assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.16 / shifts.size)

    def test_they_stay_in_the_picture(self) -> None:
        draw = SamplePromptsd(kinds=["box"], grid=10, box_shift=1.0)
        for epoch in range(20):
            corners = draw(item(np.ones((10, 20)), epoch=epoch))["coords"][0]
            assert corners.tolist() == [[0, 0], [19, 9]]

    def test_jitter_of_its_own_replaces_the_shift(self, label: np.ndarray) -> None:
        draw = SamplePromptsd(kinds=["box-j0"], grid=10, min_voxels=100, box_shift=0.0)
        assert draw(item(label))["coords"][0].tolist() == [[50, 20], [89, 39]]


class TestPoints:
    @pytest.mark.parametrize("kind", ["center", "point", "points", "point-d0", "points-n3-neg2"])
    def test_object_points_lie_inside_and_background_points_outside(self, kind: str, label: np.ndarray) -> None:
        for epoch in range(20):
            found = SamplePromptsd(kinds=[kind], grid=10, min_voxels=100)(item(label, epoch=epoch))
            columns, rows = found["coords"][0].long().T.numpy()
            labels = found["point_labels"][0].numpy()
            np.testing.assert_array_equal(label[rows, columns][labels == 1] == 1, True)
            np.testing.assert_array_equal(label[rows, columns][labels == 0] == 1, False)
            np.testing.assert_array_equal(labels, kind_labels([kind])[0])

    def test_volumes_keep_the_order_of_their_axes(self) -> None:
        volume = np.zeros((8, 10, 12), np.uint8)
        volume[6, 3, 9] = 1
        found = SamplePromptsd(kinds=["center"], grid=[8, 10, 12])(item(volume))
        assert found["coords"].tolist() == [[[6, 3, 9]]]
        assert found["size"].tolist() == [8, 10, 12]
        assert torch.nonzero(found["label"][0]).tolist() == [[6, 3, 9]]


class TestDraws:
    def test_they_depend_on_seed_epoch_case_and_sample_alone(self, label: np.ndarray) -> None:
        def draw(seed: int = 0, **where: Any) -> list[Any]:
            torch.rand(1), np.random.default_rng().random()  # what else is drawn does not matter
            found = SamplePromptsd(kinds=["point", "box"], grid=10, seed=seed)(item(label, **where))
            return [found["coords"].tolist(), found["point_labels"].tolist()]

        first = draw()
        assert draw() == first
        others = [draw(seed=1), draw(epoch=2), draw(case="b"), draw(sample=1)]
        assert all(other != first for other in others)

    def test_all_kinds_and_objects_come(self, label: np.ndarray) -> None:
        draw = SamplePromptsd(kinds=["box", "points"], grid=100)
        found = [draw(item(label, epoch=epoch)) for epoch in range(40)]
        assert {tuple(one["point_labels"][0].tolist()) for one in found} == {(2, 3, -1, -1, -1), (1, 1, 1, 1, 1)}
        assert len({one["label"].sum().item() for one in found}) == 2

    def test_small_objects_are_drawn_only_where_there_is_no_other(self, label: np.ndarray) -> None:
        draw = SamplePromptsd(kinds=["box"], grid=(100, 200), min_voxels=10)
        assert {draw(item(label, epoch=epoch))["label"].sum().item() for epoch in range(20)} == {800}
        assert draw(item(np.where(label == 1, 0, label)))["label"].sum() == 9

    def test_the_target_holds_the_part_of_each_cell_that_the_object_covers(self, label: np.ndarray) -> None:
        target = SamplePromptsd(kinds=["box"], grid=10, min_voxels=100)(item(label))["label"]
        expected = (label == 1).reshape(10, 10, 10, 20).mean((1, 3))
        np.testing.assert_allclose(target[0].numpy(), expected, atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize("kinds", [[], "box", ["mask"], ["text"], ["box-k2"], ["box-cc"]])
    def test_kinds_that_a_training_cannot_draw(self, kinds: Any) -> None:
        with pytest.raises(ValueError, match="`kinds` must be a list of box, center, point, points"):
            SamplePromptsd(kinds=kinds, grid=10)

    def test_a_sample_without_objects(self) -> None:
        with pytest.raises(ValueError, match="a, sample 0: there is no object to prompt for"):
            SamplePromptsd(kinds=["box"], grid=10)(item(np.zeros((4, 4))))


def test_the_size_of_a_sample_is_remembered() -> None:
    assert SampleSized()({"image": torch.zeros(3, 5, 7)})["size"].tolist() == [5, 7]
