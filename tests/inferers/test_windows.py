"""Windows around prompts: where they are put, what is asked in them, how they grow."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from fairmedfm_monai.inferers.assembly import Assembly
from fairmedfm_monai.inferers.clicks import refine
from fairmedfm_monai.inferers.growth import around_points, crossings, hanging_together, shifted, tiles
from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.inferers.windows import segment_windows
from fairmedfm_monai.networks.segmenters.sam_med3d import SamMed3dSegmenter
from fairmedfm_monai.transforms.prompt_masks import encode_mask
from tests.inferers.volumes import BRIGHT, Oracle, prompt

WINDOW = (16, 16, 16)
LABELS = ("kidney", "tumour")


def oracle(answer: str = "connected", *, accepts: Any = ("point", "mask"), **more: Any) -> Oracle:
    return Oracle(answer, accepts=accepts, **{"window": WINDOW, "spacing": 1.5, **more})


def segment(
    volume: Any, prompts: list[dict[str, Any]], network: Oracle, *, spacing: Any = (1.5, 1.5, 1.5), **settings: Any
) -> tuple[np.ndarray, list[Any]]:
    kinds = sorted({entry["kind"] for entry in prompts})
    channels = {(kind, label): k * 2 + n for k, kind in enumerate(kinds) for n, label in enumerate(LABELS)}
    volume = torch.as_tensor(volume, dtype=torch.float32)[None]
    assembly = Assembly(len(channels), volume.shape[1:])
    found = segment_windows(volume, spacing, network, prompts, assembly, channels=channels, **settings)  # type: ignore[arg-type]
    return np.asarray(assembly.result()), found


def bright(mask: np.ndarray) -> np.ndarray:
    return mask * BRIGHT


def test_window_is_the_official_crop_or_pad_around_the_click() -> None:
    """128 in small: half the window before the click's voxel, zeros beyond the volume, at its own spacing a copy."""
    volume = np.random.default_rng(0).normal(size=(20, 30, 12)) * 500
    network = oracle("ball", radius=4.0)
    logits, _ = segment(volume, [prompt("kidney", points=[(2, 15, 6)])], network)
    padded = np.pad(volume, 16).astype(np.float32)
    window = network.embedded[0][0, 0].numpy()
    start = 2 - 7, 15 - 7, 6 - 7
    expected = padded[tuple(slice(s + 16, s + 32) for s in start)]
    np.testing.assert_array_equal(window, expected)
    assert network.decoded[0]["coords"].tolist() == [[[[7.0, 7.0, 7.0]]]]
    # The field of the window and nothing else.
    assert (logits[0] > -1e4).sum() == 11 * 16 * 12
    assert (logits[1] == -1e4).all()


def test_one_window_is_embedded_once_for_all_labels_kinds_and_rounds() -> None:
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[7:19, 7:19, 7:19] = True
    target = encode_mask(mask)
    point = [(12, 12, 12)]
    prompts = [
        prompt("kidney", points=point, kind="point"),
        prompt("tumour", points=point, kind="point"),
        prompt("kidney", points=point, kind="center"),
        prompt("kidney", points=point, kind="center-k2", target=target),
        prompt("kidney", mask=target, kind="mask"),
    ]
    network = oracle(accepts=("point", "mask"))
    logits, _ = segment(bright(mask), prompts, network, max_windows=1)
    assert len(network.embedded) == 1
    # Kinds in order of name: center, center-k2, mask, point; two labels each.
    for channel in (0, 2, 4, 6, 7):
        np.testing.assert_array_equal(logits[channel] > 0, mask)


def test_prompts_are_decoded_together_and_in_halves_when_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[10:14, 10:14, 10:14] = True
    prompts = [prompt("kidney", points=[(12, 12, 12), (11, 11, 11 + 0.1 * n)]) for n in range(6)]
    prompts = [{**entry, "coords": [entry["coords"][0]] * (1 + n % 2)} for n, entry in enumerate(prompts)]
    for entry in prompts:
        entry["point_labels"] = [1] * len(entry["coords"])
    network = oracle()
    whole, _ = segment(bright(mask), prompts, network)
    assert [call["labels"].shape[1] for call in network.decoded] == [6]

    class Small(Oracle):
        def decode_low_res(self, embedding: Any, coords: Any, *args: Any, **kwargs: Any) -> Any:
            if coords.shape[1] > 2:
                message = "out of memory"
                raise torch.OutOfMemoryError(message)
            return super().decode_low_res(embedding, coords, *args, **kwargs)

    small = Small("connected", window=WINDOW, spacing=1.5)
    with caplog.at_level(logging.WARNING):
        halves, _ = segment(bright(mask), prompts, small)
    np.testing.assert_array_equal(halves, whole)
    assert "going on with prompt_batch=1" in caplog.text  # 6, 3, 1
    assert len(small.embedded) == 1


def test_a_box_bigger_than_the_window_is_tiled() -> None:
    network = oracle("box", accepts=("box",))
    shape = (50, 22, 10)
    logits, _ = segment(np.zeros(shape), [prompt("kidney", box=[(3, 2, 1), (44, 12, 8)])], network)
    expected = np.zeros(shape, dtype=bool)
    expected[3:45, 2:13, 1:9] = True
    np.testing.assert_array_equal(logits[0] > 0, expected)
    assert len(network.embedded) == 4  # 42 voxels; windows of 16 that share 4 or more
    assert len(network.decoded) == 4


def test_tiles_cover_the_extent_and_share_a_quarter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lower = rng.uniform(-20, 20, 3)
        upper = lower + rng.uniform(0, 60, 3)
        starts = np.array(tiles(lower, upper, WINDOW))
        for axis in range(3):
            along = np.unique(starts[:, axis])
            assert along[0] <= lower[axis] + 0.5
            assert along[-1] + 16 >= upper[axis] + 0.5
            assert (np.diff(along) <= 12 + 1).all()
            if upper[axis] - lower[axis] <= 15:
                assert len(along) == 1
                middle = along[0] + 7.5
                assert abs(middle - (lower[axis] + upper[axis]) / 2) <= 0.5


def test_a_mask_bigger_than_the_window_is_tiled_and_copied() -> None:
    mask = np.zeros((40, 20, 20), dtype=bool)
    mask[2:37, 4:9, 4:9] = True
    mask[30:37, 4:19, 6:8] = True
    network = oracle("mask", accepts=("mask",))
    logits, _ = segment(np.zeros(mask.shape), [prompt("tumour", mask=encode_mask(mask), kind="mask")], network)
    np.testing.assert_array_equal(logits[1] > 0, mask)
    empty = prompt("tumour", mask=encode_mask(np.zeros_like(mask)), kind="mask")
    logits, _ = segment(np.zeros(mask.shape), [empty], network)
    assert (logits == -1e4).all()


def snake(shape: tuple[int, ...] = (70, 60, 20)) -> np.ndarray:
    """Three long bars in a row, joined at their ends: no window sees more than a part of it."""
    mask = np.zeros(shape, dtype=bool)
    mask[4:66, 5:10, 8:12] = True
    mask[61:66, 5:50, 8:12] = True
    mask[4:66, 45:50, 8:12] = True
    return mask


@pytest.mark.parametrize("accepts", [("point",), ("point", "mask")])
def test_windows_grow_along_the_object(accepts: tuple[str, ...]) -> None:
    mask = snake()
    mask[30:40, 25:35, 2:5] = True  # another object, near enough to be seen
    network = oracle(accepts=accepts)
    logits, _ = segment(bright(mask), [prompt("kidney", points=[(6, 7, 10)])], network, max_windows=40)
    np.testing.assert_array_equal(logits[0] > 0, snake())
    assert len(network.decoded) == len(network.embedded)  # no window twice
    priors = [call["masks"] for call in network.decoded]
    assert priors[0] is None
    assert all((prior is not None) == ("mask" in accepts) for prior in priors[1:])


def test_growing_stops_at_max_windows_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network = oracle()
    with caplog.at_level(logging.WARNING):
        logits, _ = segment(bright(snake()), [prompt("kidney", points=[(6, 7, 10)])], network, max_windows=3)
    assert sum(call["labels"].shape[1] for call in network.decoded) == 3
    assert "user for kidney: its object reaches beyond 3 windows" in caplog.text
    assert (logits[0] > 0).any()
    assert not ((logits[0] > 0) & ~snake()).any()


def test_specks_and_the_end_of_the_volume_start_no_window() -> None:
    class Specks(Oracle):
        def find(self, image: Any, *args: Any) -> np.ndarray:
            found = super().find(image, *args)
            found[0, 3, 3] = found[-1, 12, 12] = True
            return found

    mask = np.zeros((30, 30, 12), dtype=bool)
    mask[10:20, 10:20, :] = True  # from the first slice to the last
    network = Specks("connected", window=WINDOW, spacing=1.5)
    segment(bright(mask), [prompt("kidney", points=[(15, 15, 6)])], network)
    assert len(network.embedded) == 1


def test_the_object_beyond_the_face_gets_a_click_on_its_deepest_voxel_and_the_logits_so_far() -> None:
    mask = np.zeros((40, 24, 24), dtype=bool)
    mask[4:36, 9:14, 9:14] = True
    network = oracle()
    segment(bright(mask), [prompt("kidney", points=[(12, 11, 11)], signs=[1])], network, max_windows=2)
    second = network.decoded[1]
    # The window starts at 12 - 7 = 5, 4, 4; its upper half along the first axis are the voxels 13..20 of the volume.
    # The bar is cut at both ends there, so it is deepest in its middle, at (15, 16, 17 or 18); seen from the shifted
    # window 8 less. Or the window grew to the lower side, where the bar ends at 4.
    side = 1 if second["masks"][0, 0, :8].any() and not second["masks"][0, 0, 8:].any() else -1
    shift = 8 * side
    point = second["coords"][0, 0, 0].numpy() + np.array([5 + shift, 4, 4])
    assert mask[tuple(point.astype(int))]
    assert tuple(point[1:]) == (11, 11)
    known = second["masks"][0, 0].numpy()
    logits = np.where(mask[5:21, 4:20, 4:20], 5.0, -5.0)
    np.testing.assert_array_equal(known[:8] if side > 0 else known[8:], logits[8:] if side > 0 else logits[:8])
    assert not (known[8:] if side > 0 else known[:8]).any()


def test_crossings_of_a_cross() -> None:
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[:, 4:7, 4:7] = mask[4:7, :, 4:7] = True
    cross = mask.copy()
    mask[0, 0, 0] = True  # a speck
    faces = [(axis, side) for axis in range(3) for side in (-1, 1)]
    found = hanging_together(mask, np.array([[5.0, 5, 5]]))
    np.testing.assert_array_equal(found, cross)
    leaving = {tuple(crossing.shift.tolist()): crossing for crossing in crossings(found, faces)}
    assert set(leaving) == {(5, 0, 0), (-5, 0, 0), (0, 5, 0), (0, -5, 0)}
    for shift, crossing in leaving.items():
        inward = crossing.beyond - np.sign(shift)
        assert cross[tuple(inward.T)].all()
        assert len(inward) == 9
        assert (((crossing.beyond < 0) | (crossing.beyond > 9)).sum(axis=1) == 1).all()
        assert cross[tuple(crossing.point)]
        moved = crossing.point - shift
        assert ((moved >= 0) & (moved < 10)).all()
    assert not list(crossings(found, [(2, 1), (2, -1)]))
    assert not hanging_together(mask, np.array([[9.0, 9, 9]])).any()  # the click is on nothing


def test_pieces_that_cross_a_face_get_a_point_each() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[1:, 1:4, 1:4] = mask[1:, 7:12, 7:12] = mask[1:3] = True
    points = [crossing.point for crossing in crossings(mask, [(0, 1)])]
    assert sorted(tuple(point[1:].tolist()) for point in points) == [(2, 2), (9, 9)]


def test_windows_around_points_keep_them_off_the_border() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        points = rng.uniform(0, 50, (4, 3))
        starts = np.array(around_points(points, WINDOW))
        middle = np.abs(points[:, None] - (starts + 7.5)) <= 4.5
        assert middle.all(axis=-1).any(axis=1).all()
        assert len(starts) <= 4
    assert around_points(np.array([[3.0, 3, 3], [11, 3, 3]]), WINDOW) == tiles(
        np.array([3.0, 3, 3]), np.array([11.0, 3, 3]), WINDOW
    )


def test_shifted_logits() -> None:
    logits = torch.arange(64.0).reshape(4, 4, 4) + 1
    for shift in [(8, 0, 0), (-8, 0, 0), (0, 8, -8)]:
        moved = shifted(logits, shift, WINDOW)
        assert moved is not None
        rolled = torch.roll(logits, [-step // 4 for step in shift], dims=(0, 1, 2))
        assert torch.equal(moved[moved != 0], rolled[moved != 0])
        assert (moved != 0).sum() == 64 // 2 ** sum(map(bool, shift))
    assert shifted(logits, (2, 0, 0), WINDOW) is None


def test_background_points_and_several_points() -> None:
    mask = np.zeros((60, 20, 20), dtype=bool)
    mask[2:8, 8:12, 8:12] = mask[50:58, 8:12, 8:12] = True
    network = oracle()
    points = [(5, 10, 10), (30, 10, 10), (54, 10, 10), (6, 5, 5)]
    logits, _ = segment(bright(mask), [prompt("kidney", points=points, signs=[1, 0, 1, 0])], network)
    np.testing.assert_array_equal(logits[0] > 0, mask)
    # Windows without an object point are not even embedded; each gets the points in it.
    assert len(network.embedded) == 2
    assert sorted(call["labels"][0, 0].tolist() for call in network.decoded) == [[1], [1, 0]]


def test_what_lies_outside_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[8:12, 8:12, 8:12] = True
    prompts = [
        prompt("kidney", points=[(10, 10, 10), (10, 10, 25)]),
        prompt("tumour", points=[(10, 10, 25)]),
    ]
    network = oracle()
    with caplog.at_level(logging.WARNING):
        logits, _ = segment(bright(mask), prompts, network)
    np.testing.assert_array_equal(logits[0] > 0, mask)
    assert (logits[1] == -1e4).all()
    assert "user for kidney: what lies outside the image is left out" in caplog.text
    assert "user for tumour has nothing inside the image" in caplog.text
    box = oracle("box", accepts=("box",))
    boxes = [prompt("kidney", box=[(-5, 2, 2), (3, 30, 5)]), prompt("tumour", box=[(-5, 2, 2), (-2, 30, 5)])]
    logits, _ = segment(np.zeros((20, 20, 20)), boxes, box)
    expected = np.zeros((20, 20, 20), dtype=bool)
    expected[:4, 2:, 2:6] = True
    np.testing.assert_array_equal(logits[0] > 0, expected)
    assert (logits[1] == -1e4).all()


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (prompt("kidney", box=[(1, 1, 1), (4, 4, 4)]), "box"),
        (prompt("kidney", text="kidney", kind="text"), "text"),
        (prompt("kidney", mask=encode_mask(np.ones((9, 9, 9)))), "mask"),
    ],
)
def test_a_prompt_that_the_network_does_not_take(entry: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=f"Oracle takes point, but the prompt of .* has a {part}"):
        segment(np.zeros((9, 9, 9)), [entry], oracle(accepts=("point",)))


def test_a_mask_on_another_grid() -> None:
    entry = prompt("kidney", mask=encode_mask(np.ones((9, 9, 8))), kind="mask")
    with pytest.raises(ValueError, match=r"has shape \(9, 9, 8\), expected the image's shape \(9, 9, 9\)"):
        segment(np.zeros((9, 9, 9)), [entry], oracle("mask", accepts=("mask",)))


class Clumsy(Oracle):
    """Finds a cube of 5 voxels around each object point, less one around each background point."""

    def find(self, image: np.ndarray, coords: Any, labels: Any, *args: Any) -> np.ndarray:
        grid = np.stack(np.indices(image.shape), axis=-1)
        found = np.zeros(image.shape, dtype=bool)
        for point, label in zip(coords.numpy(), labels.tolist(), strict=True):
            if label >= 0:
                found[(np.abs(grid - point) <= 2).all(axis=-1)] = label == 1
        return found


def test_correction_clicks_are_those_of_refine_in_the_window() -> None:
    mask = np.zeros((30, 20, 20), dtype=bool)
    mask[4:14, 6:11, 6:11] = True
    network = Clumsy("connected", window=WINDOW, spacing=1.5)
    entry = prompt("tumour", points=[(6, 8, 8)], kind="point-k2", target=encode_mask(mask))
    logits, found = segment(np.zeros(mask.shape), [entry], network)
    ((channel, scores),) = found
    assert channel == 1
    assert len(scores) == 3
    assert scores[0] == pytest.approx(2 * 125 / (125 + 250))
    assert scores[-1] == 1.0
    np.testing.assert_array_equal(logits[1] > 0, mask)
    # By hand: the window starts at -1, 1, 1.
    embedding = network.embed(torch.zeros(1, 1, *WINDOW))
    target = torch.zeros(1, 1, *WINDOW, dtype=torch.bool)
    target[0, 0, 5:15, 5:10, 5:10] = True
    coords, labels = torch.tensor([[[[7.0, 7, 7]]]]), torch.ones(1, 1, 1, dtype=torch.long)
    expected, by_hand = refine(network, embedding, coords, labels, target, 2)
    np.testing.assert_allclose(scores, by_hand[0, 0])
    torch.testing.assert_close(torch.from_numpy(logits[1, :15, 1:17, 1:17]), expected[0, 0, 1:])


def image_of(volume: np.ndarray, prompts: list[dict[str, Any]], affine: np.ndarray | None = None) -> MetaTensor:
    meta = {"prompts": json.dumps(prompts)}
    affine = np.diag([1.5, 1.5, 1.5, 1]) if affine is None else affine
    return MetaTensor(torch.as_tensor(volume, dtype=torch.float32)[None, None], affine=affine, meta=meta)


def test_bad_volumes_through_the_inferer() -> None:
    inferer = PromptedInferer(LABELS)
    entries = [prompt("kidney", points=[(3, 3, 3)])]
    volume = np.zeros((8, 8, 8))
    volume[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="FiniteValuesd"):
        inferer(image_of(volume, entries), oracle())
    with pytest.raises(ValueError, match="spacing must hold three positive numbers"):
        segment(np.zeros((8, 8, 8)), entries, oracle(), spacing=(1.5, 0.0, 1.5))


def test_click_dice_and_progress_through_the_inferer(capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((30, 20, 20), dtype=bool)
    mask[4:14, 6:11, 6:11] = True
    entry = prompt("tumour", points=[(6, 8, 8)], kind="point-k2", target=encode_mask(mask))
    inferer = PromptedInferer(LABELS, ["point-k2"], progress=True, output="masks")
    pred = inferer(image_of(np.zeros(mask.shape), [entry]), Clumsy("connected", window=WINDOW, spacing=1.5))
    (record,) = json.loads(pred.meta["click_dice"])
    assert record["channel"] == 1
    assert record["dice"][0][-1] == 1.0
    np.testing.assert_array_equal(pred[0, 1], mask)
    assert "windows" in capsys.readouterr().err


def test_sam_med3d_through_the_inferer_is_sam_med3d_by_hand() -> None:
    """At 1.5 mm the whole road is: cut or pad 128 voxels around the click, embed, decode, put back."""
    network = SamMed3dSegmenter(weights="tiny")
    volume = np.random.default_rng(0).normal(300, 200, size=(40, 150, 60)).astype(np.float32)
    click = (20, 100, 30)
    inferer = PromptedInferer(LABELS, max_windows=1)
    with torch.no_grad():
        pred = inferer(image_of(volume, [prompt("kidney", points=[click])]), network)
        start = np.array(click) - 63
        window = np.pad(volume, 128)[tuple(slice(s + 128, s + 256) for s in start)]
        embedding = network.embed(torch.from_numpy(window)[None, None])
        logits, _ = network.decode(embedding, torch.full((1, 1, 1, 3), 63.0), torch.ones(1, 1, 1, dtype=torch.long))
    low = np.maximum(start, 0)
    high = np.minimum(start + 128, volume.shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    there = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    torch.testing.assert_close(pred[0, 0][inside].as_tensor(), logits[0, 0][there], rtol=0, atol=1e-4)
    outside = np.ones(volume.shape, dtype=bool)
    outside[inside] = False
    assert (pred[0, 0].numpy()[outside] == -1e4).all()
