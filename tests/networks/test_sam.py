"""SAM against segment-anything's own predictor and registry on equal random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding
from fairmedfm_monai.networks.segmenters.sam import SamCore, SamSegmenter
from fairmedfm_monai.networks.segmenters.sam_builder import GEOMETRIES, build_sam

TOLERANCE = 1e-4
SHAPES = [(100, 70), (128, 128), (201, 333), (40, 60)]
POINTS = np.array([[30, 31], [10, 20], [5, 5], [39, 2], [21, 17]])
SIGNS = np.array([1, 1, 0, 1, 0])
BOX = np.array([10, 12, 35, 38])


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    small = {"width": 48, "depth": 3, "heads": 3, "global_blocks": (2,), "window_size": 3}
    model = build_sam(image_size=128, prompt_dim=32, decoder_mlp=64, **small)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


class Pair:
    """The predictor and the segmenter with the same image and weights."""

    def __init__(self, sam: Sam, shape: tuple[int, int], multimask: bool | None = None) -> None:
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        self.predictor, self.segmenter = SamPredictor(sam), SamSegmenter.from_sam(sam, multimask=multimask)
        self.predictor.set_image(image)
        self.embedding = self.segmenter.embed(tensor(image))

    def expected(self, **prompt: NDArray[np.generic] | bool | None) -> tuple[Tensor, float, NDArray[np.float32]]:
        logits, iou, low_res = self.predictor.predict(return_logits=True, **prompt)
        best = iou.argmax()
        return torch.from_numpy(logits[best]), iou[best], low_res[best : best + 1]

    def actual(self, coords: object, labels: object, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits, iou = self.segmenter.decode(
            self.embedding, torch.as_tensor(coords)[None, None], torch.as_tensor(labels)[None, None], masks
        )
        return logits[0, 0], iou[0, 0]


def tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def pair(request: pytest.FixtureRequest, sam: Sam) -> Pair:
    with torch.no_grad():
        return Pair(sam, request.param)


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


class TestSamPredictor:
    def test_one_point(self, pair: Pair) -> None:
        expected = pair.expected(point_coords=POINTS[:1], point_labels=SIGNS[:1], multimask_output=True)
        logits, iou = pair.actual(POINTS[:1], SIGNS[:1])
        assert (logits - expected[0]).abs().max() <= TOLERANCE
        assert iou.item() == pytest.approx(expected[1], abs=1e-4)

    def test_points_with_negatives(self, pair: Pair) -> None:
        expected = pair.expected(point_coords=POINTS, point_labels=SIGNS, multimask_output=False)
        assert (pair.actual(POINTS, SIGNS)[0] - expected[0]).abs().max() <= TOLERANCE

    def test_box(self, pair: Pair) -> None:
        expected = pair.expected(box=BOX, multimask_output=False)
        assert (pair.actual(BOX.reshape(2, 2), [2, 3])[0] - expected[0]).abs().max() <= TOLERANCE

    def test_box_with_points(self, pair: Pair) -> None:
        expected = pair.expected(point_coords=POINTS, point_labels=SIGNS, box=BOX, multimask_output=False)
        coords, labels = np.concatenate([BOX.reshape(2, 2), POINTS]), [2, 3, *SIGNS]
        assert (pair.actual(coords, labels)[0] - expected[0]).abs().max() <= TOLERANCE

    def test_box_then_its_mask(self, pair: Pair) -> None:
        first = pair.expected(box=BOX, multimask_output=False)
        expected = pair.expected(box=BOX, mask_input=first[2], multimask_output=False)
        box = torch.as_tensor(BOX.reshape(1, 1, 2, 2)), torch.tensor([[[2, 3]]])
        low_res, _ = pair.segmenter.decode_low_res(pair.embedding, *box)
        logits = pair.segmenter.decode(pair.embedding, *box, low_res)[0]
        assert (logits[0, 0] - expected[0]).abs().max() <= TOLERANCE
        assert (logits[0, 0] - first[0]).abs().max() > 1e-3

    def test_padding_beside_other_prompts_changes_nothing(self, pair: Pair) -> None:
        """Prompts of every make-up in one call equal each alone, in any order of rows and padding."""
        coords, labels = torch.zeros(1, 4, 7, 2), torch.full((1, 4, 7), -1)
        coords[0, 0, 2:7], labels[0, 0, 2:7] = torch.tensor(POINTS).float(), torch.tensor(SIGNS)
        coords[0, 1, 5:7], labels[0, 1, 5:7] = torch.tensor(BOX.reshape(2, 2)).float(), torch.tensor([2, 3])
        coords[0, 3, 3], labels[0, 3, 3] = torch.tensor(POINTS[0]).float(), 1
        logits, iou = pair.segmenter.decode(pair.embedding, coords, labels)
        assert (logits[0, 0] - pair.actual(POINTS, SIGNS)[0]).abs().max() <= 1e-5
        assert (logits[0, 1] - pair.actual(BOX.reshape(2, 2), [2, 3])[0]).abs().max() <= 1e-5
        assert (logits[0, 3] - pair.actual(POINTS[:1], SIGNS[:1])[0]).abs().max() <= 1e-5
        assert (logits[0, 2] - NO_PROMPT).abs().max() < 0.1
        assert iou[0, 2] == 0


@pytest.mark.parametrize("multimask", [True, False])
def test_multimask_is_a_choice(sam: Sam, multimask: bool) -> None:
    pair = Pair(sam, (100, 70), multimask)
    for prompt, coords, labels in (
        ({"box": BOX}, BOX.reshape(2, 2), [2, 3]),
        ({"point_coords": POINTS[:1], "point_labels": SIGNS[:1]}, POINTS[:1], SIGNS[:1]),
    ):
        expected = pair.expected(multimask_output=multimask, **prompt)[0]
        assert (pair.actual(coords, labels)[0] - expected).abs().max() <= TOLERANCE


def test_images_of_a_batch_do_not_touch_each_other(sam: Sam) -> None:
    segmenter = SamSegmenter.from_sam(sam)
    images = torch.randint(0, 256, (3, 3, 60, 90)).float()
    coords, labels = torch.rand(3, 2, 2, 2) * 60, torch.tensor([2, 3]).expand(3, 2, 2)
    together = segmenter.decode(segmenter.embed(images), coords, labels)[0]
    for number in range(3):
        alone = segmenter.decode(segmenter.embed(images[number][None]), coords[number][None], labels[number][None])[0]
        assert (together[number] - alone[0]).abs().max() <= 1e-5


class TestPublishedGeometry:
    @pytest.mark.parametrize("variant", GEOMETRIES)
    def test_every_layer_is_that_of_the_registry(self, variant: str) -> None:
        with torch.device("meta"):
            assert str(build_sam(**GEOMETRIES[variant])) == str(sam_model_registry[variant]())

    def test_vit_b_prepares_and_decodes_as_the_predictor(self) -> None:
        """Everything of ViT-B but the image encoder's forward pass, which is segment-anything's own code."""
        torch.manual_seed(0)
        sam = sam_model_registry["vit_b"]()
        image = np.random.default_rng(0).integers(0, 256, (300, 512, 3), dtype=np.uint8)
        segmenter, predictor = SamSegmenter.from_sam(sam), SamPredictor(sam)
        resized = predictor.transform.apply_image(image)
        prepared = sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None])
        assert torch.equal(segmenter.preprocess(tensor(image)), prepared[..., : resized.shape[0], :])
        predictor.features, predictor.is_image_set = torch.randn(1, 256, 64, 64), True
        predictor.original_size, predictor.input_size = (300, 512), resized.shape[:2]
        embedding = ImageEmbedding(predictor.features, (300, 512), (600, 1024))
        box = torch.tensor([[[[40.0, 30.0], [400.0, 222.0]]]])
        expected = predictor.predict(box=box.flatten().numpy(), multimask_output=False, return_logits=True)[0]
        logits = segmenter.decode(embedding, box, torch.tensor([[[2, 3]]]))[0]
        assert (logits[0] - torch.from_numpy(expected)).abs().max() <= TOLERANCE


class TestInterface:
    def test_an_image_alone_is_segmented_by_its_central_box(self, sam: Sam) -> None:
        segmenter = SamSegmenter.from_sam(sam)
        image = torch.rand(2, 3, 48, 80) * 255
        box = torch.tensor([[20.0, 12.0], [59.0, 35.0]]).expand(2, 1, 2, 2), torch.tensor([2, 3]).expand(2, 1, 2)
        assert segmenter(image).shape == (2, 1, 48, 80)
        assert torch.equal(segmenter(image), segmenter(image, box))

    def test_intensities_are_rounded_to_8_bit_and_clipped(self, sam: Sam) -> None:
        segmenter = SamSegmenter.from_sam(sam)
        image = torch.rand(1, 3, 30, 30) * 300 - 20
        rounded = image.round().clamp(0, 255)
        assert torch.equal(segmenter.embed(image).features, segmenter.embed(rounded).features)

    @pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8)])
    def test_grey_images_are_refused_with_advice(self, sam: Sam, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="repeat a grey channel three times"):
            SamSegmenter.from_sam(sam)(torch.zeros(shape))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [([[[4, 1]]], "background, two box corners, padding"), ([[[2, 1]]], "one box"), ([[[2, 3, 2, 3]]], "one box")],
    )
    def test_labels_that_mean_nothing_are_refused(self, sam: Sam, labels: list[object], message: str) -> None:
        segmenter = SamSegmenter.from_sam(sam)
        marks = torch.tensor(labels)
        with pytest.raises(ValueError, match=message):
            segmenter.decode(segmenter.embed(torch.zeros(1, 3, 16, 16)), torch.zeros(*marks.shape, 2), marks)

    def test_prompts_of_another_batch_size_are_refused(self, sam: Sam) -> None:
        segmenter = SamSegmenter.from_sam(sam)
        with pytest.raises(ValueError, match="for 1 embedded image"):
            segmenter.decode(segmenter.embed(torch.zeros(1, 3, 16, 16)), torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2))

    def test_gradients_reach_encoder_and_decoder(self, sam: Sam) -> None:
        segmenter = SamSegmenter.from_sam(sam)
        with torch.enable_grad():
            loss = segmenter(torch.rand(1, 3, 32, 32) * 255).square().sum()
            weights = segmenter.image_encoder.patch_embed.proj.weight, segmenter.mask_decoder.mask_tokens.weight
            gradients = torch.autograd.grad(loss, weights)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)

    def test_no_object_at_all_is_an_empty_result(self, sam: Sam) -> None:
        segmenter = SamSegmenter.from_sam(sam)
        embedding = segmenter.embed(torch.zeros(2, 3, 16, 20))
        logits, iou = segmenter.decode(embedding, torch.zeros(2, 0, 1, 2), torch.zeros(2, 0, 1))
        assert (logits.shape, iou.shape) == ((2, 0, 16, 20), (2, 0))

    def test_tiny_keeps_sams_input_and_is_small(self) -> None:
        segmenter = SamSegmenter("vit_h", "tiny")
        assert (segmenter.input_spec.size, segmenter.input_spec.max_value) == (1024, 255)
        assert segmenter(torch.zeros(1, 3, 50, 40)).shape == (1, 1, 50, 40)
        assert sum(parameter.numel() for parameter in segmenter.parameters()) < 1e6

    def test_names_of_the_parameters_are_sams(self, sam: Sam) -> None:
        assert list(SamCore(sam).state_dict()) == list(sam.state_dict())

    def test_an_unknown_variant_lists_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="vit_b, vit_l, vit_h"):
            SamSegmenter("vit_x")
