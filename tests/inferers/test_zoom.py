"""Zoom-out-zoom-in: what the network sees, what it is asked, and how the two steps are put together."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import CropForeground, Resize
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.inferers.assembly import Assembly
from fairmedfm_monai.inferers.boxes import WindowedBox, around, enlarge, foreground
from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.inferers.zoom import segment_zoomed
from fairmedfm_monai.networks.segmenters.segvol import SegVolSegmenter
from fairmedfm_monai.transforms.prompt_masks import encode_mask
from tests.inferers.volumes import BRIGHT, Oracle, prompt

WINDOW = (8, 16, 16)
LABELS = ("kidney", "tumour")
EVERYTHING = ("point", "box", "text")


def oracle(answer: str = "connected", **more: Any) -> Oracle:
    return Oracle(answer, accepts=EVERYTHING, **{"window": WINDOW, "spacing": None, "zoom": True, **more})


class Script(Oracle):
    """Prepares by shifting; answers what it is told, first on the whole volume, then in windows."""

    def __init__(self, far: Any, near: Any = lambda image: image) -> None:
        super().__init__("", accepts=EVERYTHING, window=WINDOW, spacing=None, zoom=True)
        self.answers, self.prepared = [far, near], 0

    def prepare(self, volume: Tensor) -> Tensor:
        self.prepared += 1
        return volume + 1

    def find(self, *args: Any) -> Any:
        raise NotImplementedError

    def decode_low_res(self, embedding: Any, coords: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.decoded.append({"coords": coords, "labels": labels, **kwargs})
        answer = self.answers[0] if len(self.decoded) == 1 else self.answers[1]
        return answer(embedding.features)[:, None].expand(-1, labels.shape[1], -1, -1, -1), torch.ones(labels.shape[:2])


def segment(volume: Any, prompts: list[dict[str, Any]], network: Oracle, **settings: Any) -> tuple[Tensor, list[Any]]:
    kinds = sorted({entry["kind"] for entry in prompts})
    channels = {(kind, label): k * 2 + n for k, kind in enumerate(kinds) for n, label in enumerate(LABELS)}
    volume = torch.as_tensor(volume, dtype=torch.float32)[None]
    assembly = Assembly(len(channels), volume.shape[1:])
    spacing = settings.pop("spacing", (3.0, 0.8, 0.8))
    found = segment_zoomed(volume, spacing, network, prompts, assembly, channels=channels, **settings)  # type: ignore[arg-type]
    return assembly.result(), found


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.01


def positive_in(box: tuple[slice, ...]) -> Any:
    """Logits (1, *WINDOW): 3 inside a box of the shrunk volume, -3 elsewhere."""
    logits = torch.full((1, *WINDOW), -3.0)
    logits[(0, *box)] = 3.0
    return lambda image: logits


def test_the_shrunk_foreground_is_monais_and_embedded_once() -> None:
    volume = torch.full((20, 40, 50), -1.0)  # becomes 0
    volume[3:18, 5:36, 7:49] = noise((15, 31, 42))
    network = Script(lambda image: image * 0 - 1)
    entries = [prompt(label, text=label, kind="text") for label in LABELS]
    logits, _ = segment(volume, entries, network)
    cropped = CropForeground()(volume[None] + 1)
    shrunk = Resize(WINDOW, mode="nearest-exact")(cropped)
    assert network.prepared == len(network.embedded) == len(network.decoded) == 1
    torch.testing.assert_close(network.embedded[0][0], shrunk.as_tensor())
    assert network.decoded[0]["texts"] == ["kidney", "tumour"]
    assert network.decoded[0]["labels"].unique().tolist() == [-1]
    # Nothing found: step 1 stays, and outside of the foreground there is nothing.
    assert (logits[:, 3:18, 5:36, 7:49] == -1).all()
    assert (logits == -1).sum() == 2 * 15 * 31 * 42


def test_near_logits_replace_far_ones_in_the_enlarged_box() -> None:
    """The whole composite by hand, with MONAI's sliding window for the near part."""
    volume = noise((24, 50, 40))
    far = positive_in((slice(2, 4), slice(5, 14), slice(3, 6)))
    near = lambda image: (image - 1.5) * torch.arange(16)  # noqa: E731  # depends on the place in the window
    logits, _ = segment(volume, [prompt("kidney", text="kidney", kind="text")], Script(far, near))
    coarse = F.interpolate(far(None)[None], size=volume.shape, mode="nearest-exact")[0, 0]
    places = (coarse > 0).nonzero()
    low, high = places.min(dim=0)[0], places.max(dim=0)[0] + 1
    assert (high - low).tolist() == [6, 28, 8]
    grown = torch.tensor([1, 0, 4])
    box = tuple(map(slice, (low - grown).tolist(), (high + grown).tolist()))
    expected = coarse.clone()
    expected[box] = sliding_window_inference(
        volume[box][None, None] + 1, WINDOW, 1, lambda window: near(window[:, 0])[:, None], 0.5
    )[0, 0]
    torch.testing.assert_close(logits[0], expected)


def decoded_near(network: Oracle) -> list[tuple[list[list[float]], list[int]]]:
    return [(call["coords"][0, 0].tolist(), call["labels"][0, 0].tolist()) for call in network.decoded[1:]]


def test_text_mode_asks_for_the_text_alone() -> None:
    network = Script(positive_in((slice(0, 8), slice(0, 16), slice(0, 4))))
    segment(noise((8, 40, 40)), [prompt("kidney", text="left kidney", kind="text")], network)
    assert len(network.decoded) > 2
    for call in network.decoded[1:]:
        assert call["texts"] == ["left kidney"]
        assert call["labels"].tolist() == [[[-1]]]


def test_box_mode_in_one_window_asks_for_the_box_itself() -> None:
    """A box of 16 x 16 shrunk voxels of which the prediction fills a part."""
    network = Script(positive_in((slice(3, 5), slice(6, 9), slice(6, 9))))
    segment(noise((8, 32, 32)), [prompt("kidney", box=[(2, 9, 11), (5, 21, 24)])], network)
    first = network.decoded[0]
    assert first["coords"].tolist() == [[[[2.0, 4.0, 5.0], [5.0, 10.0, 11.0]]]]
    # The prediction: 3..4, 12..17, 12..17; the window around it begins at 0, 7, 7.
    assert decoded_near(network) == [([[2.0, 2.0, 4.0], [5.0, 14.0, 15.0]], [2, 3])]


def test_a_box_on_the_shrunk_volume_is_the_box_of_the_shrunk_object() -> None:
    rng = np.random.default_rng(0)
    shape = (11, 37, 53)
    for _ in range(30):
        lower = np.array([rng.integers(0, size - 4) for size in shape])
        upper = np.minimum(lower + 4 + rng.integers(0, 30, 3), np.array(shape) - 1)
        mask = torch.zeros(shape)
        mask[tuple(slice(a, b + 1) for a, b in zip(lower, upper, strict=True))] = 1
        places = F.interpolate(mask[None, None], size=WINDOW, mode="nearest-exact")[0, 0].nonzero().float()
        network = Script(lambda image: image * 0 - 1)
        segment(noise(shape), [prompt("kidney", box=[lower.tolist(), upper.tolist()])], network)
        expected = torch.stack([places.min(dim=0)[0], places.max(dim=0)[0]])
        torch.testing.assert_close(network.decoded[0]["coords"][0, 0], expected)


def test_box_mode_in_several_windows_asks_for_the_box_of_the_prediction() -> None:
    far = torch.full((1, *WINDOW), -3.0)
    far[0, 2:4, 1:3, 2:4] = far[0, 2:4, 13:15, 2:4] = 3.0  # nothing in the middle
    network = Script(lambda image: far)
    segment(noise((8, 64, 16)), [prompt("kidney", box=[(1, 2, 1), (6, 60, 9)])], network)
    coarse = F.interpolate(far[None], size=(8, 64, 16), mode="nearest-exact")[0, 0] > 0
    expected = []
    # The box of the prediction is 4..59 along the second axis; 2..3 along the last, enlarged and cut to 0..10, and so
    # padded by 2 in front.
    for start in (4, 12, 20, 28, 36, 44):
        voxels = coarse[:, start : start + 16].nonzero() + torch.tensor([0, 0, 2])
        box = [voxels.min(dim=0)[0].tolist(), voxels.max(dim=0)[0].tolist()] if len(voxels) else [[-1.0] * 3] * 2
        expected.append((box, [2, 3]))
    assert decoded_near(network) == expected
    assert ([[-1.0] * 3] * 2, [2, 3]) in expected


def test_point_mode_asks_for_the_object_points_and_the_box_of_the_prediction() -> None:
    network = Script(positive_in((slice(2, 5), slice(4, 8), slice(4, 8))))
    points = [(3, 11, 10), (4, 13, 15), (0, 31, 31), (2, 12, 12)]
    segment(noise((8, 32, 32)), [prompt("kidney", points=points, signs=[1, 1, 1, 0])], network)
    assert network.decoded[0]["labels"].tolist() == [[[1, 1, 1, 0]]]
    # The prediction: 2..4, 8..15, 8..15; the window begins at 0, 4, 4. The third point lies outside, the last says no.
    box = [[2.0, 4.0, 4.0], [4.0, 11.0, 11.0]]
    assert decoded_near(network) == [([[3.0, 7.0, 6.0], [4.0, 9.0, 11.0], *box], [1, 1, 2, 3])]


def test_what_is_smaller_than_the_window_is_padded_with_its_prompts() -> None:
    """One slice; the image, the prediction and the prompts move by the same padding."""
    volume = noise((1, 10, 20))
    network = Script(positive_in((slice(0, 8), slice(0, 16), slice(0, 16))))
    logits, _ = segment(volume, [prompt("kidney", box=[(0, 2, 5), (0, 7, 18)])], network)
    windows = network.embedded[1:]
    assert len(windows) == 2  # 20 voxels in windows of 16
    padded = F.pad(volume + 1, (0, 0, 3, 3, 3, 4))
    torch.testing.assert_close(windows[0][0, 0], padded[..., :16])
    torch.testing.assert_close(windows[1][0, 0], padded[..., 4:])
    assert decoded_near(network) == [([[3.0, 3.0, 0.0], [3.0, 12.0, 15.0]], [2, 3])] * 2
    torch.testing.assert_close(logits[0], volume + 1)
    alone = Script(positive_in((slice(0, 8), slice(0, 16), slice(0, 16))))
    segment(noise((1, 10, 12)), [prompt("kidney", box=[(0, 2, 5), (0, 7, 11)])], alone)
    assert decoded_near(alone) == [([[3.0, 5.0, 7.0], [3.0, 10.0, 13.0]], [2, 3])]


def test_prompts_outside_the_foreground(caplog: pytest.LogCaptureFixture) -> None:
    volume = np.zeros((8, 30, 30))
    volume[:, 10:20, 10:20] = BRIGHT
    entries = [
        prompt("kidney", points=[(4, 12, 12), (4, 3, 3)]),
        prompt("tumour", points=[(4, 3, 3)]),
        prompt("kidney", box=[(0, 0, 0), (7, 29, 14)], kind="box"),
    ]
    network = oracle()
    with caplog.at_level(logging.WARNING):
        logits, _ = segment(volume, entries, network)
    np.testing.assert_array_equal(logits[2] > 0, volume > 0)
    assert (logits[3] == -1e4).all()
    np.testing.assert_array_equal(logits[0] > 0, volume > 0)
    assert "user for tumour has nothing inside the foreground" in caplog.text
    constant, _ = segment(np.zeros((8, 8, 8)), [prompt("kidney", points=[(4, 3, 3)])], oracle())
    assert (constant[0] == -5).all()


def test_too_many_windows_keep_the_coarse_result(caplog: pytest.LogCaptureFixture) -> None:
    volume = noise((8, 80, 16))
    far = torch.full((1, *WINDOW), 3.0)
    far[0, :, 3:, :8] = -3.0  # more is found at the beginning of the second axis
    network = Script(lambda image: far, lambda image: image + 10)
    with caplog.at_level(logging.WARNING):
        logits, _ = segment(volume, [prompt("kidney", text="kidney", kind="text")], network, max_windows=1)
    assert len(network.decoded) == 2
    assert "spans 9 windows of full resolution, but max_windows is 1" in caplog.text
    coarse = F.interpolate(far[None], size=volume.shape, mode="nearest-exact")[0, 0]
    torch.testing.assert_close(logits[0, :, 16:], coarse[:, 16:])
    torch.testing.assert_close(logits[0, :, :8], volume[:, :8] + 11)


def test_windows_are_embedded_once_for_prompts_that_share_them() -> None:
    volume = np.zeros((8, 30, 30))
    volume[2:6, 10:20, 10:20] = BRIGHT
    volume[0, 0, 0] = volume[-1, -1, -1] = 1
    entries = [prompt("kidney", text="kidney", kind="text"), prompt("kidney", points=[(4, 12, 12)])]
    network = oracle()
    logits, _ = segment(volume, entries, network)
    assert len(network.embedded) == 2
    np.testing.assert_array_equal(logits[0] > 0, volume > BRIGHT / 2)
    np.testing.assert_array_equal(logits[2] > 0, volume > BRIGHT / 2)


def test_correction_clicks_are_drawn_on_the_shrunk_volume() -> None:
    volume = np.zeros((8, 32, 32))
    volume[2:6, 4:12, 4:12] = volume[2:6, 20:26, 20:26] = BRIGHT
    volume[0, 0, 0] = volume[-1, -1, -1] = 1
    entry = prompt("tumour", points=[(4, 8, 8)], kind="point-k2", target=encode_mask(volume > 50))
    logits, found = segment(volume, [entry], oracle())
    ((channel, scores),) = found
    assert channel == 1
    first = 4 * 4 * 4  # voxels of the shrunk volume, of the first piece; the other has 4 * 3 * 3
    assert scores == [pytest.approx(2 * first / (2 * first + 36)), 1.0, 1.0]
    assert (logits[1].numpy() > 0)[volume > 50].all()


def windows_of_monai(volume: Tensor) -> list[Any]:
    seen: list[Any] = []

    def look(image: Tensor, places: Any) -> Tensor:
        seen.append(tuple(places[0][2:]))
        return image

    sliding_window_inference(volume[None, None], WINDOW, 1, look, 0.5, with_coord=True)
    return seen


def test_boxes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        shape = rng.integers(1, 30, 3)
        low = [int(rng.integers(0, size)) for size in shape]
        high = [int(rng.integers(a + 1, size + 1)) for a, size in zip(low, shape, strict=True)]
        box = tuple(map(slice, low, high))
        count = np.zeros(shape, dtype=int)
        for part in (box, *around(box, shape.tolist())):
            count[part] += 1
        assert (count == 1).all()
        volume = torch.zeros(1, *shape.tolist())
        volume[0][box] = 1
        assert foreground(volume) == box
        grown = enlarge(box, WINDOW, shape.tolist())
        for part, was, least, size in zip(grown, box, WINDOW, shape, strict=True):
            lacking = max(least - (was.stop - was.start), 0)
            assert part.start == max(was.start - lacking // 2, 0)
            assert part.stop == min(was.stop + -(-lacking // 2), size)
        view = WindowedBox(grown, WINDOW, 0.5)
        array = noise(tuple(part.stop - part.start for part in grown))
        padded = view.pad(array)
        torch.testing.assert_close(view.crop(padded), array)
        assert windows_of_monai(padded) == view.windows
    assert foreground(torch.zeros(1, 4, 5, 6)) == (slice(0, 4), slice(0, 5), slice(0, 6))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_bad_spacing(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing must hold three positive numbers"):
        segment(np.ones((8, 8, 8)), [prompt("kidney", points=[(4, 3, 3)])], oracle(), spacing=spacing)


def test_masks_are_refused() -> None:
    entry = prompt("kidney", mask=encode_mask(np.ones((9, 9, 9))), kind="mask")
    with pytest.raises(ValueError, match="Oracle takes box, point, text, but the prompt of mask"):
        segment(np.zeros((9, 9, 9)), [entry], oracle())


def test_segvol_through_the_inferer_is_segvol_by_hand() -> None:
    """A volume of just one window, in which the tiny network finds something at every side: both steps see it all."""
    network = SegVolSegmenter(weights="tiny")
    volume = np.random.default_rng(0).normal(0, 300, size=(32, 256, 256)).astype(np.float32)
    corners, points = [(3, 40, 50), (20, 180, 200)], [(9, 100, 100), (4, 20, 20)]
    entries = [
        prompt("kidney", text="kidney", kind="text"),
        prompt("tumour", box=corners, kind="box"),
        prompt("kidney", points=points, signs=[1, 0], kind="points-n1-neg1"),
    ]
    image = MetaTensor(torch.from_numpy(volume)[None, None], meta={"prompts": json.dumps(entries)})
    inferer = PromptedInferer(LABELS, ["text", "box", "points-n1-neg1"])
    with torch.no_grad():
        pred = inferer(image, network)[0].as_tensor()
        embedding = network.embed(network.prepare(image[0].as_tensor())[None])

        def ask(coords: Any, labels: list[int], **more: Any) -> Tensor:
            where = torch.tensor(coords, dtype=torch.float32)[None, None]
            logits = network.decode(embedding, where, torch.tensor([[labels]]), **more)[0][0, 0]
            places = (logits > 0).nonzero()
            assert [places.min(dim=0)[0].tolist(), places.max(dim=0)[0].tolist()] == whole
            return logits

        whole = [[0, 0, 0], [31, 255, 255]]
        ask(points, [1, 0])  # step 1; what it finds makes the box of step 2
        expected = {
            0: ask([(0, 0, 0)], [-1], texts=["kidney"]),
            3: ask(corners, [2, 3]),
            4: ask([points[0], *whole], [1, 2, 3]),
        }
    for channel, logits in expected.items():
        torch.testing.assert_close(pred[channel], logits, rtol=0, atol=1e-4)
    assert (pred[[1, 2, 5]] == -1e4).all()
