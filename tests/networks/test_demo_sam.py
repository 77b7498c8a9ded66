"""demo_sam: the shipped file, its architecture, its interface, its training code and its measured results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder

from fairmedfm_monai.networks.pretrained import FOLDER, shipped
from fairmedfm_monai.networks.segmenters.demo_sam import GEOMETRY, TINY, DemoSAM, build_demo_sam
from fairmedfm_monai.networks.weights import WeightsError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> DemoSAM:
    return DemoSAM()


@pytest.fixture
def _training_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def results() -> dict:
    return json.loads((FOLDER / "demo_results.json").read_text(encoding="utf-8"))


def picture(height: int = 256, width: int = 256) -> np.ndarray:
    """A grey disc on black, (H, W, 3) uint8."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - 0.45 * height) ** 2 + (columns - 0.55 * width) ** 2 < (0.22 * min(height, width)) ** 2
    return np.repeat((60 + 120 * inside).astype(np.uint8)[..., None], 3, axis=2)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def test_shipped_file_is_small_half_precision_and_attributed() -> None:
    path = shipped("demo_sam")
    assert path.stat().st_size <= 5e6
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert kinds == {torch.float16}
    for words in ("LIDC-IDRI-0001", "CC BY 3.0", "Armato", "pseudo-labels"):
        assert words in about["attribution"]
    assert "not a medical model" in about["notice"]


def test_shipped_weights_are_float32_in_memory_and_finite(model: DemoSAM) -> None:
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert not model.training


def test_parts_are_segment_anythings_own_classes(model: DemoSAM) -> None:
    assert type(model.image_encoder) is ImageEncoderViT
    assert type(model.prompt_encoder) is PromptEncoder
    assert type(model.mask_decoder) is MaskDecoder


@pytest.mark.parametrize("shape", [(256, 256), (200, 140), (300, 512)])
@pytest.mark.parametrize("kind", ["box", "point", "points"])
def test_masks_equal_those_of_sam_predictor(model: DemoSAM, shape: tuple[int, int], kind: str) -> None:
    """The shipped weights in segment_anything's own predictor give the same logits."""
    sam = build_demo_sam(**GEOMETRY)
    sam.load_state_dict({name: value.float() for name, value in load_file(shipped("demo_sam")).items()}, strict=True)
    image = picture(*shape)
    predictor = SamPredictor(sam.eval())
    predictor.set_image(image)
    height, width = shape
    box = np.array([0.33 * width, 0.23 * height, 0.77 * width, 0.67 * height]).round()
    points = np.array([[0.55 * width, 0.45 * height], [0.5 * width, 0.5 * height]]).round()[: 1 + (kind == "points")]
    if kind == "box":
        given = {"box": box}
        coords, labels = box.reshape(1, 1, 2, 2), [[[2, 3]]]
    else:
        given = {"point_coords": points, "point_labels": np.ones(len(points))}
        coords, labels = points[None, None], [[[1] * len(points)]]
    expected, guess, _ = predictor.predict(**given, multimask_output=False, return_logits=True)
    with torch.no_grad():
        embedding = model.embed(as_tensor(image))
        logits, iou = model.decode(embedding, torch.tensor(coords).float(), torch.tensor(labels))
    assert np.abs(logits[0, 0].numpy() - expected[0]).max() <= 1e-4
    assert float(iou[0, 0]) == pytest.approx(float(guess[0]), abs=1e-5)


def test_default_box_makes_a_mask_of_the_image_size(model: DemoSAM) -> None:
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, 100, 140))
    assert logits.shape == (2, 1, 100, 140)
    assert bool(logits.isfinite().all())


def test_two_instances_agree_to_the_bit(model: DemoSAM) -> None:
    image = as_tensor(picture())
    with torch.no_grad():
        assert torch.equal(model(image), DemoSAM()(image))


def test_random_and_tiny_are_seeded() -> None:
    image = as_tensor(picture())
    with torch.no_grad():
        for kind in ("random", "tiny"):
            assert torch.equal(DemoSAM(kind, seed=3)(image), DemoSAM(kind, seed=3)(image))
            assert not torch.equal(DemoSAM(kind, seed=3)(image), DemoSAM(kind, seed=4)(image))


def test_tiny_is_smaller_with_the_same_input(model: DemoSAM) -> None:
    tiny = DemoSAM("tiny")
    assert sum(p.numel() for p in tiny.parameters()) < sum(p.numel() for p in model.parameters()) / 5
    assert tiny.input_spec == model.input_spec
    assert set(TINY) == set(GEOMETRY)


def test_keys_are_strict(model: DemoSAM) -> None:
    state = model.state_dict()
    state["extra"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="extra"):
        DemoSAM("random").load_state_dict(state, strict=False)


def test_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(WeightsError, match="checkpoint of another model than DemoSAM"):
        DemoSAM(shipped("demo_clip"))


@pytest.mark.usefixtures("_training_code")
class TestTraining:
    def test_training_slices_keep_away_from_the_test(self) -> None:
        from demo_training.sam_data import held_out_heights, training_heights

        training, test = training_heights(133), held_out_heights()
        assert len(training) == 69
        assert len(test) == 40
        assert np.abs(training[:, None] - test[None]).min() == 4

    def test_batched_decoder_equals_the_public_one(self, model: DemoSAM) -> None:
        from demo_training.sam_data import Prompts
        from demo_training.sam_model import decode_batch

        images = torch.cat([as_tensor(picture()), as_tensor(255 - picture())])
        coords = torch.tensor([[[80.0, 60], [190, 170]], [[120, 110], [0, 0]], [[100, 90], [150, 140]]])
        labels = torch.tensor([[2, 3], [1, -1], [2, 3]])
        prompts = Prompts(torch.tensor([0, 0, 1]), coords, labels, torch.zeros(3, 4), torch.zeros(3, 64, 64))
        with torch.no_grad():
            embedding = model.embed(images)
            got, guess = decode_batch(model, embedding.features, prompts)  # type: ignore[arg-type]
            pairs = coords.new_zeros(2, 2, 2, 2), labels.new_full((2, 2, 2), -1)
            for row, (image, place) in enumerate(((0, 0), (0, 1), (1, 0))):
                pairs[0][image, place], pairs[1][image, place] = coords[row], labels[row]
            expected, iou = model.decode_low_res(embedding, *pairs)
        for row, (image, place) in enumerate(((0, 0), (0, 1), (1, 0))):
            torch.testing.assert_close(got[row], expected[image, place], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(guess[row], iou[image, place], rtol=1e-4, atol=1e-5)

    def test_prompts_of_a_concave_object_lie_inside(self) -> None:
        from demo_training.sam_data import deepest_point, draw_prompts, largest_component

        labels = np.zeros((1, 256, 256), np.uint8)
        labels[0, 40:200, 40:200] = 7
        labels[0, 40:160, 80:160] = 0  # a U
        labels[0, 5:25, 5:25] = 7  # a smaller part elsewhere
        mask = largest_component(labels[0] == 7)
        assert mask[:30, :30].sum() == 0
        x, y = deepest_point(mask)
        assert mask[y, x]
        pairs, groups = draw_prompts(labels, frozenset({7}), rng=np.random.default_rng(0))
        assert pairs.boxes.tolist() == [[40, 40, 199, 199]] * 7
        for part in (pairs, groups):
            for coords, kinds in zip(part.coords.numpy().astype(int), part.labels.numpy(), strict=True):
                for (px, py), kind in zip(coords, kinds, strict=True):
                    if kind in {0, 1}:
                        assert mask[py, px] == kind
        area = float(pairs.masks[0].sum()) * 16
        assert area == mask.sum()

    def test_structured_start_matches_equal_positions(self) -> None:
        from demo_training.sam_model import structured_start

        torch.manual_seed(0)
        sam = build_demo_sam(**GEOMETRY)
        before = {name: value.shape for name, value in sam.state_dict().items()}
        structured_start(sam, torch.Generator().manual_seed(0))
        assert {name: value.shape for name, value in sam.state_dict().items()} == before
        attention = sam.mask_decoder.transformer.final_attn_token_to_image
        assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
        places = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T
        scores = attention.q_proj(places) @ attention.k_proj(places).T
        assert (scores.argmax(1) == torch.arange(len(places))).float().mean() > 0.9


def test_results_meet_the_targets_and_belong_to_the_shipped_file(results: dict) -> None:
    found = results["demo_sam"]
    assert found["sha256"] == hashlib.sha256(shipped("demo_sam").read_bytes()).hexdigest()
    assert found["n_objects"] >= 140
    assert found["organs"]["box"] >= found["organs"]["filled"] + 0.03
    assert found["organs"]["center"] >= 0.60
    assert len(found["per_organ"]) == 8


@pytest.mark.network
@pytest.mark.usefixtures("_training_code")
def test_held_out_slices_again(model: DemoSAM, monkeypatch: pytest.MonkeyPatch) -> None:
    from demo_training import sam_measure

    from fairmedfm_monai.data.demo.fetch import ScanUnavailableError
    from fairmedfm_monai.data.demo.scan import load_scan

    try:
        scan = load_scan(allow_phantom=False)
    except ScanUnavailableError as error:
        pytest.skip(f"the scan cannot be fetched: {error}")
    monkeypatch.setattr(sam_measure, "held_out_heights", lambda: np.array([18, 23, 50, 55, 83, 87, 114, 119]))
    objects = sam_measure.score_objects(model, scan)
    organs = objects[objects["structure"].isin(sam_measure.ORGANS)]
    assert len(organs) >= 20
    assert organs["box"].mean() >= organs["filled"].mean() + 0.03
    assert organs["center"].mean() >= 0.60
