"""An oracle that returns its prompt's own mask: every way through a volume gives that mask back, in the file's grid.

The whole chain is real: NIfTI file, `SimulatePromptsd`, ``Orientationd``, `PromptsToMetad`, a loader, the inferer,
``Invertd``.
"""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd, Orientationd
from scipy import ndimage

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.inferers.propagation import StopRule
from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.transforms.label_map import MasksToLabelMapd
from fairmedfm_monai.transforms.prompt_masks import encode_mask
from tests.inferers.test_prompted import AFFINES, LABELS, blobs, chain, infer, write
from tests.inferers.test_propagation import NEVER, Follower

SEGMENTERS = [
    name
    for name, row in rows().items()
    if row.task == "segmentation" and not row.is_volumetric and name != "demo_sam"  # takes no mask prompts
]


class Echo(PromptableSegmenter):
    """Returns its mask prompt, or what its box holds of the object under it, and paints what clicks point at.

    The picture holds the values of labels as intensities. `noise` makes the logits differ in their last digits, as
    those of networks do, so that overlaps have a winner.
    """

    accepts = frozenset({"point", "box", "mask", "text"})

    def __init__(self, *, noise: float = 0.0, spoil: bool = False) -> None:
        super().__init__(spatial_dims=2, input_spec=InputSpec(size=8, mean=[0.0], std=[1.0], channels=1))
        self.noise, self.spoil = noise, spoil
        self.embedded = 0
        self.calls: list[tuple[int, ...]] = []

    def embed(self, image: torch.Tensor) -> ImageEmbedding:
        self.embedded += len(image)
        return ImageEmbedding(image[:, 0].round(), tuple(image.shape[-2:]), tuple(image.shape[-2:]))

    def mask_input(self, masks: torch.Tensor, embedding: ImageEmbedding) -> torch.Tensor:
        return torch.where(masks, 2.0, -2.0)

    def decode_low_res(self, embedding: Any, coords: Any, labels: Any, masks: Any = None, *, texts: Any = None) -> Any:
        self.calls.append(tuple(labels.shape))
        found = torch.zeros(*labels.shape[:2], *embedding.original_size, dtype=torch.bool)
        for b, p in np.ndindex(*labels.shape[:2]):
            word = None if texts is None or p >= len(texts) else texts[p]
            prior = None if masks is None else masks[b, p] > 0
            found[b, p] = self.mask(embedding.features[b], coords[b, p], labels[b, p], prior, word)
        logits = torch.where(found, 2.0, -2.0)
        if self.noise:
            rows, columns = torch.meshgrid(*map(torch.arange, embedding.original_size), indexing="ij")
            # Depends on the place and the prompt, not on the batch that it came in.
            phase = (coords * (labels >= 0)[..., None]).sum((-1, -2))[..., None, None]
            logits = logits + self.noise * torch.sin(3.7 * rows + 1.3 * columns + phase)
        return logits, torch.ones(labels.shape[:2])

    def upscale(self, low_res: torch.Tensor, embedding: ImageEmbedding) -> torch.Tensor:
        return low_res

    def mask(self, picture: torch.Tensor, coords: Any, labels: Any, prior: Any, word: str | None) -> torch.Tensor:
        if word is not None:
            return picture == LABELS[word]
        mask = torch.zeros_like(picture, dtype=torch.bool) if prior is None else prior.clone()
        if 3 in labels and prior is None:
            (x0, y0), (x1, y1) = (coords[labels == corner][0].round().long().tolist() for corner in (2, 3))
            inside = picture[y0 : y1 + 1, x0 : x1 + 1]
            values = inside[inside > 0].long()
            mask[y0 : y1 + 1, x0 : x1 + 1] = inside == (values.bincount().argmax() if len(values) else -1)
        for (column, row), label in zip(coords.round().long().tolist(), labels.tolist(), strict=True):
            if label in (0, 1):
                pieces, _ = ndimage.label((picture == picture[row, column]).numpy())
                mask[torch.tensor(pieces == pieces[row, column])] = bool(label)
        if self.spoil and prior is None:
            mask[: len(mask) // 2] ^= picture[: len(mask) // 2] > 0  # errors for the clicks to correct
        return mask


def organs(shape: tuple[int, int, int] = (34, 30, 16)) -> np.ndarray:
    """Three apart, each in one piece on each slice along each axis."""
    volume = np.zeros(shape, dtype=np.uint8)
    grid = np.indices(shape)
    for value, centre in zip(LABELS.values(), ((8, 8, 5), (24, 9, 9), (14, 22, 10)), strict=True):
        radius = (6, 5, 4)
        volume[sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) <= 1] = value
    return volume


def through(folder: Path, mask: np.ndarray, affine: np.ndarray, network: Any, kinds: list[str], **settings: Any) -> Any:
    """Masks (kinds x labels, ...) in the grid of the file."""
    simulate = {key: settings.pop(key) for key in ("per", "texts", "min_component") if key in settings}
    axis = settings.get("axis", -1)
    preprocessing = chain(
        Orientationd(["image", "label"], axcodes="LPS", labels=None), kinds=kinds, axis=axis, axcodes="LPS", **simulate
    )
    data = infer(preprocessing, write(folder, mask, affine), network, PromptedInferer(LABELS, kinds, **settings))
    clicks = data["pred"].meta.get("click_dice")
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True)(data)["pred"]
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    back.meta["click_dice"] = clicks  # Invertd gives the image's meta data
    return back


def one_per_label(mask: np.ndarray, kinds: int = 1) -> np.ndarray:
    return np.stack([mask == value for value in LABELS.values()] * kinds)


@pytest.mark.parametrize("axis", [-1, 0, 1, "vote"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_masks_components_and_words(tmp_path: Path, affine: np.ndarray, axis: Any) -> None:
    mask = blobs((27, 24, 11))
    kinds = ["mask", "mask-cc", "text"]
    words = {name: name for name in LABELS}
    settings = {"axis": axis, "output": "masks", "texts": words, "min_component": 1}
    back = through(tmp_path, mask, affine, Echo(), kinds, **settings)
    np.testing.assert_array_equal(back, one_per_label(mask, 3))
    assert back.dtype == torch.uint8


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_one_slice_per_label_is_carried_through_the_volume(tmp_path: Path, affine: np.ndarray, axis: int) -> None:
    mask = organs()
    network = Follower()
    back = through(
        tmp_path, mask, affine, network, ["box", "center"], axis=axis, per="key_slice", propagation="box",
        stop=NEVER, output="masks",
    )  # fmt: skip
    np.testing.assert_array_equal(back, one_per_label(mask, 2))


def test_three_axes_of_carried_objects_vote(tmp_path: Path) -> None:
    mask = organs()
    back = through(
        tmp_path, mask, AFFINES["oblique"], Follower(), ["center"], axis="vote", per="key_slice", propagation="box",
        stop=StopRule(), output="label_map",
    )  # fmt: skip
    np.testing.assert_array_equal(back[0], mask)


@pytest.mark.parametrize("axis", [-1, 0, "vote"])
@pytest.mark.parametrize("affine", ["sagittal", "oblique"])
def test_clicks_correct_what_the_box_got_wrong(tmp_path: Path, affine: str, axis: Any) -> None:
    """Each error is one object, so clicks repair it; the Dice of each object on each slice is handed on."""
    mask = organs()
    network = Echo(spoil=True)
    kinds = ["box", "box-k6"]
    back = through(tmp_path, mask, AFFINES[affine], network, kinds, axis=axis, output="masks")
    assert not np.array_equal(back[:3], one_per_label(mask))
    np.testing.assert_array_equal(back[3:], one_per_label(mask))
    records = json.loads(back.meta["click_dice"])
    assert [record["channel"] for record in records] == [3, 4, 5]
    axes = (0, 1, 2) if axis == "vote" else (axis,)
    turned = np.moveaxis(mask, *_to_lps(AFFINES[affine]))
    for record, value in zip(records, LABELS.values(), strict=True):
        objects = sum(int((turned == value).any(axis=tuple(a for a in range(3) if a != b % 3)).sum()) for b in axes)
        assert len(record["dice"]) == objects
        assert all(len(dice) == 7 and dice[-1] == 1.0 for dice in record["dice"])
        assert min(dice[0] for dice in record["dice"]) < 1.0


def _to_lps(affine: np.ndarray) -> tuple[list[int], list[int]]:
    """Source and destination axes that bring a file's axes into world order."""
    import nibabel as nib

    return [0, 1, 2], [int(axis) for axis in nib.orientations.io_orientation(affine)[:, 0]]


def test_kinds_rounds_and_masks_share_one_embedding_per_slice(tmp_path: Path) -> None:
    mask = organs()
    network = Echo()
    through(tmp_path, mask, AFFINES["plain"], network, ["box", "mask", "center", "center-k2", "box-cc"])
    assert network.embedded == mask.any(axis=(0, 1)).sum()


@pytest.mark.parametrize("batches", [{"slice_batch": 1}, {"slice_batch": 3, "prompt_batch": 1}, {"prompt_batch": 1000}])
@pytest.mark.parametrize("way", [{}, {"propagation": "box", "per": "key_slice"}, {"axis": "vote"}])
def test_batches_change_nothing(tmp_path: Path, batches: dict[str, int], way: dict[str, Any]) -> None:
    mask = organs()
    kinds = ["box-j20", "box-cc", "box-k2", "mask-j30"]
    runs = [
        through(tmp_path, mask, AFFINES["oblique"], Echo(noise=0.5, spoil=True), kinds, **way, **settings)
        for settings in ({}, batches)
    ]
    np.testing.assert_array_equal(*runs)
    assert runs[0].meta["click_dice"] == runs[1].meta["click_dice"]


@pytest.mark.parametrize("axis", [-1, 0])
def test_label_map_equals_the_map_of_the_logits(tmp_path: Path, axis: int) -> None:
    """Jittered boxes of neighbours overlap; both ways decide by the larger logit in half precision."""
    mask = blobs((27, 24, 11))
    settings = {"axis": axis, "dtype": "float16"}
    network = Echo(noise=0.5, spoil=True)
    logits = through(tmp_path, mask, AFFINES["oblique"], network, ["box-j30"], **settings)
    label_map = through(tmp_path, mask, AFFINES["oblique"], network, ["box-j30"], output="label_map", **settings)
    expected = MasksToLabelMapd("pred", labels=LABELS)({"pred": logits})["pred"]
    assert ((logits > 0).sum(dim=0) > 1).any(), "nothing overlaps: this test would prove nothing"
    np.testing.assert_array_equal(label_map, expected)


class Forgetful(Echo):
    """Runs out of memory above so many slices, or prompts."""

    def __init__(self, slices: int, prompts: int) -> None:
        super().__init__()
        self.limits = slices, prompts

    def embed(self, image: torch.Tensor) -> ImageEmbedding:
        if len(image) > self.limits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().embed(image)

    def decode_low_res(self, embedding: Any, coords: Any, labels: Any, masks: Any = None, *, texts: Any = None) -> Any:
        if labels.shape[0] * labels.shape[1] > self.limits[1]:
            raise MemoryError
        return super().decode_low_res(embedding, coords, labels, masks, texts=texts)


@pytest.mark.parametrize("limits", [(2, 100), (100, 2), (100, 5), (1, 1)])
def test_out_of_memory_changes_nothing_but_the_batches(
    tmp_path: Path, limits: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    mask = organs()
    with caplog.at_level(logging.WARNING):
        back = through(tmp_path, mask, AFFINES["flipped"], Forgetful(*limits), ["mask", "box-k2"], output="masks")
    np.testing.assert_array_equal(back, one_per_label(mask, 2))
    assert "out of memory: going on with" in caplog.text
    with pytest.raises(MemoryError):
        through(tmp_path, mask, AFFINES["flipped"], Forgetful(1, 0), ["mask"])


@pytest.mark.parametrize("name", SEGMENTERS)
def test_mask_prompt_comes_back_through_the_geometry_of_every_model(tmp_path: Path, name: str) -> None:
    """The model's own resizing there (``mask_input``) and back (``upscale``), its network cut out between.

    What is lost must lie within one pixel of the model's low-resolution masks from the object's border.
    """
    row = rows()[name]
    module, class_name = row.network.rsplit(".", 1)
    network = getattr(importlib.import_module(module), class_name)(variant=row.default_variant, weights="tiny")
    cells = []

    def echo(embedding: Any, coords: Any, labels: Any, masks: Any = None, **texts: Any) -> Any:
        scale = max(old / new for old, new in zip(embedding.original_size, embedding.input_size, strict=True))
        cells.append(scale * network.input_spec.size / masks.shape[-1])
        return masks, torch.ones(labels.shape[:2])

    network.decode_low_res = echo
    mask = np.zeros((180, 140, 3), dtype=np.uint8)
    grid = np.indices(mask.shape[:2])
    for value, centre in zip(LABELS.values(), ((48, 44), (120, 40), (88, 100)), strict=True):
        disc = sum(((g - c) / 30) ** 2 for g, c in zip(grid, centre, strict=True)) <= 1
        mask[disc, 1] = value
    back = through(tmp_path, mask, AFFINES["oblique"], network, ["mask"], output="masks")
    assert not back[..., [0, 2]].any()
    for found, value in zip(np.asarray(back)[..., 1] > 0, LABELS.values(), strict=True):
        plane = mask[..., 1] == value
        # From each pixel's centre to the nearest centre on the other side of the border.
        from_border = ndimage.distance_transform_edt(plane) + ndimage.distance_transform_edt(~plane)
        assert not ((found != plane) & (from_border > 1 + max(cells))).any()
        assert 2 * (found & plane).sum() / (found.sum() + plane.sum()) > 0.95


def given(shape: tuple[int, ...], *prompts: dict[str, Any]) -> MetaTensor:
    image = MetaTensor(torch.full((1, 1, *shape), 40.0))
    image.meta["prompts"] = json.dumps([{"kind": "user", "label": "kidney", **prompt} for prompt in prompts])
    return image


def test_a_box_without_size_is_one_pixel() -> None:
    box = {"coords": [[4, 3, 2], [4, 3, 2]], "point_labels": [2, 3]}
    found = PromptedInferer(LABELS, output="masks")(given((9, 8, 5), box), Echo())
    assert found.nonzero().tolist() == [[0, 0, 4, 3, 2]]


def test_prompts_outside_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    empty = encode_mask(np.zeros((9, 8, 5), dtype=bool))
    outside = [
        {"coords": [[20, 3, 2]], "point_labels": [1]},
        {"coords": [[0, 0, 7], [3, 3, 9]], "point_labels": [2, 3]},
        {"coords": [], "point_labels": [], "mask": empty},
    ]
    found = PromptedInferer(LABELS, output="masks")(given((9, 8, 5), *outside), Echo())
    assert not found.any()
    assert caplog.text.count("nothing inside the image") == 3


def test_prompts_for_another_axis_are_said_to_be_unused(caplog: pytest.LogCaptureFixture) -> None:
    box = {"coords": [[4, 3, 2], [6, 5, 2]], "point_labels": [2, 3], "axis": 2}
    assert not PromptedInferer(LABELS, axis=0, output="masks")(given((9, 8, 5), box), Echo()).any()
    assert "axis" in caplog.text


def test_a_mask_and_its_click_are_one_prompt() -> None:
    mask = np.zeros((9, 8, 5), dtype=bool)
    mask[2:5, 1:4, 1:3] = True
    network = Echo()
    prompt = {"coords": [[3, 2, 2]], "point_labels": [0], "mask": encode_mask(mask)}
    found = PromptedInferer(LABELS, output="masks")(given((9, 8, 5), prompt), network)
    # The click erases everything (one grey value) on its slice; the other slice of the mask is as it was.
    assert set(found.nonzero()[:, -1].tolist()) == {1}
    assert found.sum() == 9


def test_bad_input() -> None:
    inferer, shape = PromptedInferer(LABELS, ["user"]), (9, 8, 5)
    echo = Echo()
    echo.accepts = frozenset({"point"})
    box = {"coords": [[1, 1, 1], [3, 3, 1]], "point_labels": [2, 3]}
    word = {"coords": [], "point_labels": [], "text": "kidney"}
    for prompt, part in ((box, "box"), (word, "text"), ({**word, "mask": encode_mask(np.ones(shape))}, "mask")):
        with pytest.raises(ValueError, match=f"Echo takes point, but .*'kidney' has a {part}"):
            inferer(given(shape, prompt), echo)
    with pytest.raises(ValueError, match=r"mask of the prompt.*shape \(9, 8\), expected the image's shape \(9, 8, 5\)"):
        inferer(given(shape, {**word, "text": "", "mask": encode_mask(np.ones((9, 8)))}), Echo())
    image = given(shape, box)
    image[0, 0, 2, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="FiniteValuesd"):
        inferer(image, Echo())
    with pytest.raises(ValueError, match=r"time points.*cases of their own"):
        inferer(torch.zeros(1, 1, 9, 8, 5, 2), Echo())
    clicks = PromptedInferer(LABELS, ["box-k2"])
    image.meta["prompts"] = json.dumps([{**box, "kind": "box-k2", "label": "kidney"}])
    with pytest.raises(ValueError, match="no `target`"):
        clicks(torch.nan_to_num(image), Echo())


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    box = {"coords": [[4, 3, 1], [6, 5, 3]], "point_labels": [2, 3]}
    PromptedInferer(LABELS, progress=True)(given((9, 8, 5), box), Echo())
    captured = capsys.readouterr()
    assert "/3 [" in captured.err
    assert not captured.out
    # A picture has none: a folder of them would bury the log.
    PromptedInferer(LABELS, progress=True)(given((9, 8), {"coords": [[4, 3], [6, 5]], "point_labels": [2, 3]}), Echo())
    assert not capsys.readouterr().err
