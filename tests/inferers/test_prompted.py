"""Prompted inference: geometry by an oracle, equality with segment-anything's own predictor, economy, bad input."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    EnsureTyped,
    Flipd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    Rotate90d,
    SaveImaged,
    Spacingd,
)
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from segment_anything import SamPredictor
from torch import nn

from fairmedfm_monai.inferers.prompted import PromptedInferer
from fairmedfm_monai.networks.segmenters.base import ImageEmbedding
from fairmedfm_monai.networks.segmenters.sam import SamCore, build_sam
from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter, VolumeSpec
from fairmedfm_monai.transforms.click_prompts import ClicksToPromptsd
from fairmedfm_monai.transforms.label_map import MasksToLabelMapd
from fairmedfm_monai.transforms.load import CaseReader
from fairmedfm_monai.transforms.load_prompts import LoadPromptsd
from fairmedfm_monai.transforms.prompts import SIMULATED_KINDS
from fairmedfm_monai.transforms.prompts_to_meta import PromptsToMetad
from fairmedfm_monai.transforms.simulate_prompts import SimulatePromptsd

LABELS = {"kidney": 40, "tumour": 80, "vessel": 120}

TURN = Rotation.from_euler("zyx", [14, -9, 6], degrees=True).as_matrix()
AFFINES = {
    "plain": np.diag([1.0, 1, 1, 1]),
    "flipped": np.array([[-0.8, 0, 0, 90], [0, 0.8, 0, -70], [0, 0, -2.5, 33], [0, 0, 0, 1]]),
    "sagittal": np.array([[0, 0, 3.1, -40], [-0.9, 0, 0, 30], [0, -0.9, 0, 80], [0, 0, 0, 1]]),
    "oblique": nib.affines.from_matvec(TURN @ np.diag([-0.8, 0.8, 2.5]), [90, -70, 33]),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Oracle(nn.Module):
    """Knows the answer if, and only if, the prompt is where it should be.

    The picture holds the mask values as intensities. A point gives everything of the intensity under it; a box gives
    the object whose tight box it is, exactly, or with `literal` the box itself.
    """

    spatial_dims = 2
    accepts = frozenset({"point", "box"})
    tracks = False

    def __init__(self, *, literal: bool = False) -> None:
        super().__init__()
        self.literal = literal
        self.embedded: list[torch.Tensor] = []
        self.decoded: list[torch.Tensor] = []

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[1] == 3
        assert image.dtype == torch.float32
        self.embedded.append(image)
        return image[:, 0].round()

    def decode(self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor) -> Any:
        self.decoded.append(labels)
        masks = [
            [self.mask(picture, point[label >= 0], label[label >= 0]) for point, label in zip(*rows, strict=True)]
            for picture, *rows in zip(embedding, coords, labels, strict=True)
        ]
        logits = torch.stack([torch.stack(row) for row in masks])
        return torch.where(logits, 5.0, -5.0), torch.ones(logits.shape[:2])

    def mask(self, picture: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if not len(labels):
            return torch.ones_like(picture, dtype=torch.bool)  # padding: must never be used
        columns, rows = coords.round().long().T
        if labels[-1] != 3:
            values = {picture[row, column].item() for row, column in zip(rows, columns, strict=True)}
            assert len(values) == 1, "all points must lie in one object"
            return picture == values.pop()
        if self.literal:
            return self.inside(picture, *coords[-2:].tolist())
        for value in picture.unique():
            hit = (picture == value).nonzero().float()
            if (
                torch.equal(torch.stack([hit.min(dim=0)[0], hit.max(dim=0)[0]]).flip(1).float(), coords[-2:])
                and value > 0
            ):
                return picture == value
        return torch.zeros_like(picture, dtype=torch.bool)

    @staticmethod
    def inside(picture: torch.Tensor, lower: list[float], upper: list[float]) -> torch.Tensor:
        row, column = (torch.arange(size) for size in picture.shape)
        by_column = (column >= lower[0] - 0.5) & (column <= upper[0] + 0.5)
        by_row = (row >= lower[1] - 0.5) & (row <= upper[1] + 0.5)
        return by_row[:, None] & by_column[None]


def blobs(shape: tuple[int, ...]) -> np.ndarray:
    """Ragged, concave objects of three labels in several pieces, in parts of the space that overlap."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.5)
    mask = np.zeros(shape, dtype=np.uint8)
    for number, value in enumerate(LABELS.values()):
        part = tuple(slice(int(0.2 * number * size), int((0.2 * number + 0.6) * size)) for size in shape)
        high = smooth > np.quantile(smooth, 0.25 * number)
        low = smooth < np.quantile(smooth, 0.25 * (number + 1))
        mask[part] = np.where(high[part] & low[part], value, mask[part])
    return mask


def boxes(shape: tuple[int, ...]) -> np.ndarray:
    """Objects that fill their box."""
    mask = np.zeros(shape, dtype=np.uint8)
    for number, value in enumerate(LABELS.values()):
        start = [3 + 6 * number, 4 + 5 * number, 1 + number]
        mask[tuple(slice(s, s + 6) for s in start[: len(shape)])] = value
    return mask


def write(folder: Path, mask: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    path = folder / "case_1.nii.gz"
    nib.save(nib.Nifti1Image(mask, affine), path)
    return {"image": str(path), "label": str(path), "case_id": "case-1"}


def chain(*middle: Any, kinds: Any = SIMULATED_KINDS, reader: Any = None, **simulate: Any) -> Compose:
    return Compose(
        [
            LoadImaged(["image", "label"], reader=reader, ensure_channel_first=True),
            SimulatePromptsd(labels=LABELS, kinds=kinds, **simulate),
            *middle,
            EnsureTyped(["image"], dtype=torch.float32),
            PromptsToMetad(),
        ]
    )


def infer(preprocessing: Compose, data: dict[str, Any], network: nn.Module, inferer: PromptedInferer) -> dict[str, Any]:
    """What a SupervisedEvaluator does: collated batch of one, inferer, decollate."""
    batch = next(iter(DataLoader(Dataset([data], preprocessing), batch_size=1)))
    with torch.no_grad():
        batch["pred"] = inferer(batch["image"], network)
    return decollate_batch(batch)[0]


def dice(pred: np.ndarray, reference: np.ndarray) -> float:
    return 2 * float((pred & reference).sum()) / float(pred.sum() + reference.sum())


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_oracle_finds_every_object_on_its_own_grid(tmp_path: Path, affine: np.ndarray, axis: int) -> None:
    mask = blobs((27, 24, 11))
    preprocessing = chain(Orientationd(["image", "label"], axcodes="LPS", labels=None), axis=axis, axcodes="LPS")
    network = Oracle()
    inferer = PromptedInferer(LABELS, SIMULATED_KINDS, axis=axis, slice_batch=4)
    data = infer(preprocessing, write(tmp_path, mask, affine), network, inferer)
    # In the oriented grid, as evaluation sees it ...
    reference = np.stack([np.asarray(data["label"][0]) == value for value in LABELS.values()])
    for kind, logits in zip(SIMULATED_KINDS, np.split(np.asarray(data["pred"]), len(SIMULATED_KINDS)), strict=True):
        np.testing.assert_array_equal(logits > 0, reference, err_msg=kind)
    # ... and back in the grid of the file.
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    np.testing.assert_array_equal(np.asarray(back[:3] > 0), np.stack([mask == value for value in LABELS.values()]))
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    # An object's slices only, each once, for all labels and kinds.
    oriented = np.moveaxis(np.asarray(data["label"][0]), axis, 0)
    assert sum(map(len, network.embedded)) == sum(plane.any() for plane in oriented)


@pytest.mark.parametrize("kind", SIMULATED_KINDS)
def test_oracle_through_the_saved_label_map(tmp_path: Path, kind: str) -> None:
    """inference.json's postprocessing; the file is compared with nibabel, voxel by voxel."""
    mask = blobs((27, 24, 11))
    preprocessing = chain(Orientationd("image", axcodes="LPS", labels=None), kinds=[kind], axcodes="LPS")
    source = write(tmp_path, mask, AFFINES["oblique"])
    data = infer(preprocessing, source, Oracle(), PromptedInferer(LABELS, [kind]))
    Compose(
        [
            Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False),
            MasksToLabelMapd("pred", labels=LABELS),
            SaveImaged(
                "pred", output_dir=tmp_path / "out", output_postfix="mask", separate_folder=False, output_dtype=np.uint8
            ),
        ]
    )(data)
    saved = nib.load(tmp_path / "out" / "case_1_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), mask)
    np.testing.assert_allclose(saved.affine, nib.load(source["image"]).affine, atol=1e-5)
    assert saved.get_data_dtype() == np.uint8


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_oracle_under_resampling(tmp_path: Path, affine: np.ndarray) -> None:
    mask = boxes((30, 28, 12))
    turn = Orientationd("image", axcodes="LPS", labels=None)
    spacing = np.abs(nib.affines.voxel_sizes(affine)) * 0.5
    oriented = nib.orientations.io_orientation(affine)[:, 0].argsort().astype(int)
    pixdim = [*spacing[oriented][:2], 2 * spacing[oriented][2]]  # finer in the slice, the slices stay
    resample = Spacingd("image", pixdim=pixdim, mode="nearest", recompute_affine=False)
    preprocessing = chain(turn, resample, kinds=["box"], axcodes="LPS")
    data = infer(preprocessing, write(tmp_path, mask, affine), Oracle(literal=True), PromptedInferer(LABELS, ["box"]))
    assert data["image"].shape[1] > 1.8 * mask.shape[oriented[0]]
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    for channel, value in zip(back, LABELS.values(), strict=True):
        assert dice(np.asarray(channel > 0), mask == value) > 0.99


@pytest.mark.parametrize("reader", [None, CaseReader])
@pytest.mark.parametrize(
    "spatial",
    [
        Orientationd("image", axcodes="LPS", labels=None),
        Flipd("image", spatial_axis=0),
        Rotate90d("image"),
        Flipd("image", spatial_axis=(0, 1)),
    ],
)
def test_oracle_on_a_picture(tmp_path: Path, spatial: Any, reader: Any) -> None:
    mask = blobs((40, 26))
    Image.fromarray(mask).save(tmp_path / "a.png")
    data = {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "a.png")}
    network = Oracle()
    preprocessing = chain(spatial, reader=reader)
    result = infer(preprocessing, data, network, PromptedInferer(LABELS, SIMULATED_KINDS))
    if reader is CaseReader and isinstance(spatial, Orientationd):  # upright, as PIL opens the picture
        np.testing.assert_array_equal(network.embedded[0][0, 0], mask)
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(result)["pred"]
    expected = np.stack([value == mask.T for value in LABELS.values()] * len(SIMULATED_KINDS))
    np.testing.assert_array_equal(np.asarray(back > 0), expected)
    assert sum(map(len, network.embedded)) == 1


def test_oracle_on_a_resized_picture_and_its_saved_map(tmp_path: Path) -> None:
    mask = boxes((40, 26)).T.copy()
    Image.fromarray(mask).save(tmp_path / "a.png")
    data = {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "a.png")}
    preprocessing = chain(Resized("image", spatial_size=(95, 61), mode="bilinear"), kinds=["box"])
    result = infer(preprocessing, data, Oracle(literal=True), PromptedInferer(LABELS, ["box"]))
    assert result["pred"].shape == (3, 95, 61)
    post = [
        Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False),
        MasksToLabelMapd("pred", labels=LABELS),
        SaveImaged(
            "pred",
            output_dir=tmp_path / "out",
            output_ext=".png",
            output_postfix="mask",
            separate_folder=False,
            output_dtype=np.uint8,
            resample=False,
        ),
    ]
    Compose(post)(result)
    saved = np.asarray(Image.open(tmp_path / "out" / "a_mask.png"))
    assert saved.shape == mask.shape
    for value in LABELS.values():
        assert dice(saved == value, mask == value) > 0.99


def test_oracle_on_a_2d_nifti(tmp_path: Path) -> None:
    mask = blobs((40, 26))
    preprocessing = chain(Flipd("image", spatial_axis=1))
    result = infer(
        preprocessing, write(tmp_path, mask, AFFINES["flipped"]), Oracle(), PromptedInferer(LABELS, SIMULATED_KINDS)
    )
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(result)["pred"]
    expected = np.stack([mask == value for value in LABELS.values()] * len(SIMULATED_KINDS))
    np.testing.assert_array_equal(np.asarray(back > 0), expected)


def label_server(preprocessing: Compose, request: dict[str, Any], network: nn.Module, inferer: PromptedInferer) -> Any:
    """MONAI Label's road: no loader, one more dimension in front, the inferer called without anything else."""
    data = preprocessing(request)
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None], network)[0]
    return data


def click_chain(path: Path | None = None) -> Compose:
    return Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            LoadPromptsd(path=path, labels=LABELS),
            ClicksToPromptsd(labels=LABELS),
            Orientationd("image", axcodes="LPS", labels=None),
            EnsureTyped("image", dtype=torch.float32),
            PromptsToMetad(),
        ]
    )


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_click_of_monai_label_on_a_volume(tmp_path: Path, affine: np.ndarray) -> None:
    mask = blobs((27, 24, 11))
    source = write(tmp_path, mask, affine)["image"]
    index = np.argwhere(mask == LABELS["tumour"])[40]
    request = {"image": source, "foreground": [index.tolist()], "label": "tumour"}
    preprocessing, inferer = click_chain(), PromptedInferer(LABELS)
    data = label_server(preprocessing, request, Oracle(), inferer)
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)
    label_map = MasksToLabelMapd(labels=LABELS)(back)["pred"][0]
    slice_axis = int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == 2)[0])
    in_slice = np.zeros_like(mask, dtype=bool)
    in_slice[tuple(index[slice_axis] if axis == slice_axis else slice(None) for axis in range(3))] = True
    expected = np.where(in_slice & (mask == LABELS["tumour"]), LABELS["tumour"], 0)
    np.testing.assert_array_equal(label_map, expected)
    # The loader of inference.json gives the same, to the bit.
    loaded = infer(preprocessing, request, Oracle(), inferer)
    np.testing.assert_array_equal(loaded["pred"], data["pred"])
    assert loaded["pred"].meta["prompts"] == data["pred"].meta["prompts"]
    assert torch.equal(loaded["pred"].affine, data["pred"].affine)


def test_deploy_passes_the_click_in_the_meta_data_and_everything_by_keyword() -> None:
    mask = blobs((27, 24, 11))
    index = np.argwhere(mask == LABELS["kidney"])[7].tolist()
    affine = AFFINES["flipped"]
    meta = {"original_affine": affine, "spatial_shape": mask.shape, "original_channel_dim": "no_channel"}
    image = MetaTensor(
        torch.as_tensor(mask, dtype=torch.float32)[None],
        affine=torch.as_tensor(affine),
        meta={**meta, "foreground": [index]},
    )
    preprocessing = Compose(click_chain().transforms[1:])
    data = preprocessing({"image": image})
    network, inferer = Oracle(), PromptedInferer(LABELS)
    with torch.no_grad():
        pred = inferer(inputs=data["image"][None], network=network, extra=torch.zeros(1))[0]
    data["pred"] = pred
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    assert bool(back[(0, *index)] > 0)
    assert (np.argwhere(np.asarray(back[0] > 0))[:, 2] == index[2]).all()


def test_world_and_voxel_prompts_give_one_mask(tmp_path: Path) -> None:
    """A 3D box of a user, in millimetres and in voxels, goes to the same slices."""
    mask, affine = boxes((30, 28, 12)), AFFINES["sagittal"]
    source = write(tmp_path, mask, affine)
    indices = np.argwhere(mask == LABELS["vessel"])
    corners = np.stack([indices.min(axis=0), indices.max(axis=0)])
    in_mm = nib.affines.apply_affine(affine, corners)
    preds = []
    for name, space, box in (("voxel", "voxel", corners), ("world", "world", in_mm)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([{"case_id": "case-1", "label": "vessel", "space": space, "box": box.tolist()}]))
        preprocessing = click_chain(path)
        data = infer(preprocessing, source, Oracle(literal=True), PromptedInferer(LABELS))
        preds.append(Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"])
    np.testing.assert_array_equal(preds[0], preds[1])
    np.testing.assert_array_equal(np.asarray(preds[0][2] > 0), mask == LABELS["vessel"])
    assert not (preds[0][:2] > 0).any()


def small_sam() -> Any:
    torch.manual_seed(0)
    geometry = {"width": 16, "depth": 1, "heads": 2, "global_blocks": (0,), "image_size": 64, "patch_size": 16}
    return build_sam(**geometry, prompt_dim=32, decoder_mlp=32)


def counted(network: nn.Module) -> dict[str, int]:
    """Count images that go through the encoder."""
    counts = {"images": 0}
    network.image_encoder.register_forward_hook(
        lambda module, inputs, output: counts.update(images=counts["images"] + len(inputs[0]))
    )
    return counts


def sam_scene() -> tuple[np.ndarray, np.ndarray]:
    mask = blobs((36, 52))
    return np.random.default_rng(1).integers(0, 256, (36, 52, 3), dtype=np.uint8), mask


def test_logits_are_those_of_segment_anything(tmp_path: Path) -> None:
    """SamPredictor on the picture as PIL opens it, prompts written down by hand from the mask: same logits."""
    picture, mask = sam_scene()
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    sam = small_sam()
    data = {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "m.png"), "case_id": "a"}
    preprocessing = chain()
    result = infer(preprocessing, data, SamCore(sam), PromptedInferer(LABELS, SIMULATED_KINDS))
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    channel = 0
    for kind in SIMULATED_KINDS:
        for name, value in LABELS.items():
            prompt = next(
                p for p in json.loads(result["image"].meta["prompts"]) if (p["kind"], p["label"]) == (kind, name)
            )
            xy = np.array(prompt["coords"])
            assert kind == "box" or (mask[xy[:, 1].astype(int), xy[:, 0].astype(int)] == value).all()
            if kind == "box":
                rows, columns = np.nonzero(mask == value)
                box = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
                logits, iou, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
            else:
                lone = len(xy) == 1
                logits, iou, _ = predictor.predict(xy, np.ones(len(xy)), multimask_output=lone, return_logits=True)
            np.testing.assert_allclose(result["pred"][channel].T, logits[iou.argmax()], atol=1e-4)
            channel += 1
    assert channel == len(result["pred"])


def test_four_kinds_in_one_run_equal_four_runs_at_a_quarter_of_the_embeddings(tmp_path: Path) -> None:
    mask = blobs((30, 24, 5))
    data = write(tmp_path, mask, AFFINES["flipped"])
    network = SamCore(small_sam())
    counts = counted(network)
    orient = Orientationd(["image", "label"], axcodes="LPS", labels=None)
    together = infer(chain(orient), data, network, PromptedInferer(LABELS, SIMULATED_KINDS))["pred"]
    assert counts["images"] == 5
    alone = [
        infer(chain(orient, kinds=[kind]), data, network, PromptedInferer(LABELS, [kind]))["pred"]
        for kind in SIMULATED_KINDS
    ]
    assert counts["images"] == 5 * 5
    np.testing.assert_allclose(together, torch.cat(alone), atol=1e-4)


@pytest.mark.parametrize("settings", [{"slice_batch": 1}, {"slice_batch": 3, "prompt_batch": 1}, {"slice_batch": 100}])
def test_batches_do_not_change_the_result(tmp_path: Path, settings: dict[str, int]) -> None:
    data = write(tmp_path, blobs((30, 24, 5)), AFFINES["plain"])
    network = SamCore(small_sam())
    reference = infer(chain(), data, network, PromptedInferer(LABELS, SIMULATED_KINDS))["pred"]
    result = infer(chain(), data, network, PromptedInferer(LABELS, SIMULATED_KINDS, **settings))["pred"]
    np.testing.assert_allclose(result, reference, atol=1e-4)


def run_prompts(prompts: list[dict[str, Any]] | None, shape: tuple[int, ...] = (12, 10, 6), **settings: Any) -> Any:
    network = Oracle(literal=True)
    image = MetaTensor(torch.full((1, 1, *shape), 40.0))
    if prompts is not None:
        image.meta["prompts"] = json.dumps(prompts)
    return PromptedInferer(["organ", "other"], **settings)(image, network), network


def user(coords: list[list[float]], point_labels: list[int], label: str = "organ") -> dict[str, Any]:
    return {"kind": "user", "label": label, "coords": coords, "point_labels": point_labels}


def test_a_box_and_its_points_are_one_prompt() -> None:
    """Box on slices 1..3, points on slice 2 only; SAM's order has the box last."""
    prompt = user([[2, 3, 1], [6, 7, 3], [4, 4, 2], [3, 3, 2]], [2, 3, 1, 0])
    pred, network = run_prompts([prompt])
    assert sorted(set((pred[0, 0] > 0).nonzero()[:, 2].tolist())) == [1, 2, 3]
    (labels,) = network.decoded
    assert labels[:, 0].tolist() == [[2, 3, -1, -1], [1, 0, 2, 3], [2, 3, -1, -1]]


def test_boxes_and_points_are_decoded_apart_and_united_by_the_larger_logit() -> None:
    prompts = [
        user([[1, 1, 2], [3, 3, 2]], [2, 3]),
        user([[6, 6, 2], [8, 8, 2]], [2, 3]),
        user([[5, 5, 2]], [1], label="other"),
    ]
    pred, network = run_prompts(prompts)
    assert [labels.tolist() for labels in network.decoded] == [[[[2, 3], [2, 3]]], [[[1]]]]
    assert int((pred[0, 0] > 0).sum()) == 2 * 9
    assert pred[0, 1, ..., 2].min() == 5
    assert pred[0, 1, ..., 3].max() == -1e4


def test_background_points_alone_point_at_nothing() -> None:
    pred, network = run_prompts([user([[4, 4, 2], [4, 4, 3], [5, 5, 3]], [0, 0, 1])])
    assert sum(map(len, network.embedded)) == 1
    assert set((pred[0, 0] > 0).nonzero()[:, 2].tolist()) == {3}


def test_what_a_crop_cut_away_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    box = user([[-4, 2, -2], [3, 4, 1]], [2, 3])
    pred, _ = run_prompts([box, user([[4, 4, -3]], [1])])
    assert "nothing inside the image" in caplog.text
    expected = torch.zeros(12, 10, 6, dtype=torch.bool)
    expected[:4, 2:5, :2] = True
    np.testing.assert_array_equal(pred[0, 0] > 0, expected)


@pytest.mark.parametrize("prompts", [None, []])
def test_without_prompts_everything_is_background(prompts: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pred, network = run_prompts(prompts)
    assert pred.shape == (1, 2, 12, 10, 6)
    assert pred.unique().tolist() == [-1e4]
    assert not network.embedded
    assert "has no prompt" in caplog.text


def test_plain_tensor_without_meta_data() -> None:
    pred = PromptedInferer(["organ"])(torch.zeros(1, 3, 8, 6), Oracle())
    assert not isinstance(pred, MetaTensor)
    assert pred.shape == (1, 1, 8, 6)


def test_half_precision_keeps_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [user([[2, 3, 1], [6, 7, 3]], [2, 3])]
    full, _ = run_prompts(prompts)
    half, _ = run_prompts(prompts, dtype="float16")
    monkeypatch.setattr("fairmedfm_monai.inferers.prompted._HALF_PRECISION_FROM", 100)
    auto, _ = run_prompts(prompts)
    assert (full.dtype, half.dtype, auto.dtype) == (torch.float32, torch.float16, torch.float16)
    assert half.isfinite().all()
    np.testing.assert_array_equal(half > 0, full > 0)


def test_axial_slices_stand_upright_in_lps(tmp_path: Path) -> None:
    """Rows run from the front of the patient to the back and columns from the patient's right to the left."""
    volume = np.zeros((8, 6, 3), dtype=np.uint8)
    volume[6, 5, 1] = 40  # right, front in this RAS file
    preprocessing = chain(Orientationd("image", axcodes="LPS", labels=None), kinds=["point"], axcodes="LPS")
    network = Oracle()
    infer(preprocessing, write(tmp_path, volume, AFFINES["plain"]), network, PromptedInferer(LABELS, ["point"]))
    (picture,) = network.embedded
    assert picture[0, 0].nonzero().tolist() == [[0, 1]]


def test_colour_channels_reach_the_network_in_order(tmp_path: Path) -> None:
    picture, _ = sam_scene()
    Image.fromarray(picture).save(tmp_path / "a.png")
    preprocessing = click_chain()
    preprocessing = Compose([t for t in preprocessing.transforms if not isinstance(t, Orientationd)])
    network = Oracle(literal=True)
    label_server(
        preprocessing, {"image": str(tmp_path / "a.png"), "roi": [[1, 1], [5, 5]]}, network, PromptedInferer(LABELS)
    )
    np.testing.assert_array_equal(network.embedded[0][0].permute(1, 2, 0), picture)


def test_bad_input() -> None:
    inferer, network = PromptedInferer(["organ"], ["box"]), Oracle()
    image = MetaTensor(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="batch size 1"):
        inferer(torch.zeros(2, 1, 8, 8), network)
    with pytest.raises(ValueError, match="C = 1 or 3"):
        inferer(torch.zeros(1, 4, 8, 8), network)
    with pytest.raises(TypeError, match=r"promptable segmenter.* got Linear"):
        inferer(image, nn.Linear(1, 1))
    for text in ("[", "3", '[{"kind": "box"}]'):
        image.meta["prompts"] = text
        with pytest.raises(ValueError, match="must be the JSON text"):
            inferer(image, network)
    image.meta["prompts"] = json.dumps([user([[1, 1]], [1])])
    with pytest.raises(ValueError, match=r"\('user', 'organ'\).*kinds \['box'\]"):
        inferer(image, network)
    network.spatial_dims = 3
    with pytest.raises(ValueError, match="use a 2D segmenter"):
        inferer(image, network)
    for wrong in ({"kinds": "box"}, {"slice_batch": 0}, {"prompt_batch": 0}, {"max_windows": 0}):
        with pytest.raises(ValueError, match="kinds must be a list"):
            PromptedInferer(["organ"], **wrong)
    for name, value in (("dtype", "int8"), ("axis", 3), ("axis", "all"), ("propagation", "sam"), ("output", "mask")):
        with pytest.raises(ValueError, match=f"{name} must be one of .*, got {value!r}"):
            PromptedInferer(["organ"], **{name: value})
    with pytest.raises(ValueError, match="unknown base 'boxes'"):
        PromptedInferer(["organ"], ["boxes"])
    with pytest.raises(ValueError, match="one kind of prompt"):
        PromptedInferer(["organ"], ["box", "point"], output="label_map")


def test_wrapped_network() -> None:
    """DistributedDataParallel hides the methods of its module."""
    wrapper = nn.Module()
    wrapper.module = Oracle(literal=True)
    image = MetaTensor(torch.full((1, 1, 8, 8), 40.0))
    image.meta["prompts"] = json.dumps([user([[1, 1]], [1])])
    assert (PromptedInferer(["organ"])(image, wrapper) > 0).all()


class Threshold(VolumeSegmenter):
    """Everything above 10 in the window; the first prompt finds half of it, a click the rest."""

    accepts = frozenset({"point", "box"})

    def __init__(self) -> None:
        super().__init__(volume_spec=VolumeSpec(window=(32, 32, 32), axcodes="RAS"))

    def embed(self, image: torch.Tensor) -> ImageEmbedding:
        assert image.shape[1:] == (1, 32, 32, 32)
        return ImageEmbedding(image[:, 0], (32, 32, 32), (32, 32, 32))

    def decode_low_res(self, embedding: Any, coords: Any, labels: Any, masks: Any = None, *, texts: Any = None) -> Any:
        found = (embedding.features > 10)[:, None].repeat(1, labels.shape[1], 1, 1, 1)
        found[..., :16] &= (labels == 1).any(-1)[..., None, None, None]
        return torch.where(found, 3.0, -3.0), torch.ones(labels.shape[:2])

    def upscale(self, low_res: torch.Tensor, embedding: ImageEmbedding) -> torch.Tensor:
        return low_res


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_segmenter_of_volumes(tmp_path: Path, affine: np.ndarray) -> None:
    """One prompt per volume, and the map comes back in the grid of the file with the Dice after each click."""
    mask = np.zeros((27, 24, 25), dtype=np.uint8)
    mask[6:20, 5:19, 4:21] = 40
    preprocessing = chain(
        Orientationd(["image", "label"], axcodes="RAS", labels=None), kinds=["box-k2"], per="volume", axcodes="RAS"
    )
    inferer = PromptedInferer(LABELS, ["box-k2"], output="label_map")
    data = infer(preprocessing, write(tmp_path, mask, affine), Threshold(), inferer)
    (record,) = json.loads(data["pred"].meta["click_dice"])
    assert record["channel"] == 0
    assert record["dice"][0][0] < 1.0
    assert record["dice"][0][1:] == [1.0, 1.0]
    back = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True)(data)["pred"]
    np.testing.assert_array_equal(back[0], mask)
    with pytest.raises(ValueError, match="as a whole: set propagation to None"):
        PromptedInferer(LABELS, propagation="box")(data["image"][None], Threshold())
    with pytest.raises(ValueError, match=r"segments volumes \(1, 1, X, Y, Z\)"):
        PromptedInferer(LABELS)(torch.zeros(1, 1, 8, 8), Threshold())
