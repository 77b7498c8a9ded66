"""SAM 2.1 against recordings of the authors' image and video predictors on equal seeded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.sam2_video.modeling_sam2_video import NO_OBJ_SCORE

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.segmenters.base import NO_PROMPT
from fairmedfm_monai.networks.segmenters.sam2 import Sam2Core, Sam2Segmenter, rename_sam2
from fairmedfm_monai.networks.segmenters.sam2_model import GEOMETRIES, PREFIX, build_sam2
from fairmedfm_monai.usages.segmenter_parts import PARTS, part
from tests.networks import parity
from tests.networks.test_keys import read_keys

COUNTS = {"tiny": 471, "small": 519, "base_plus": 615, "large": 903}
TOLERANCE = 1e-4
SEED = 10  # of the small network; its decoder sees an object on all frames of the clip below
# Both sides keep memories in bfloat16. A value within float32 rounding of a step of that type falls to either side,
# and one such step (2^-8 of the value) moves later masks by some 1e-4; in float32 memories the masks agree to 1e-5.
TRACKING_TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return parity.read("sam2")


@pytest.fixture(scope="module")
def tiny() -> Sam2Segmenter:
    segmenter = Sam2Segmenter("tiny", "tiny")
    shapes = {name: tensor.shape for name, tensor in segmenter.state_dict().items()}
    segmenter.load_state_dict(parity.seeded_state(shapes, seed=SEED))
    return segmenter


def seeded(seed: int, image_size: int = 1024) -> Sam2Core:
    """SAM 2.1 tiny with the weights of a recording, through the names of the published file."""
    segmenter = Sam2Core(build_sam2(**{**GEOMETRIES["tiny"], "image_size": image_size})).eval()
    shapes = {name: tensor.shape for name, tensor in read_keys("sam2.1_hiera_tiny").items()}
    load_checked(segmenter, rename_sam2(parity.seeded_state(shapes, seed)), origin="seeded")
    return segmenter


class TestImages:
    @pytest.fixture(scope="class")
    def outputs(self, record: dict[str, Any]) -> dict[str, Tensor]:
        with torch.no_grad():
            segmenter = seeded(record["weight_seed"])
            embedding = segmenter.embed(parity.seeded_input((3, 300, 420), record["image_seed"]).round()[None])
            outputs = {"embedding": embedding.features}
            outputs |= {f"high_res_{level}": tensor for level, tensor in enumerate(embedding.high_res)}

            def run(name: str, coords: list[Any], labels: list[int], masks: Tensor | None = None) -> Tensor:
                prompt = torch.tensor(coords).view(1, 1, -1, 2), torch.tensor(labels).view(1, 1, -1)
                low_res, iou = segmenter.decode_low_res(embedding, *prompt, masks)
                outputs[f"{name}_low_res"], outputs[f"{name}_iou"] = low_res[0, 0], iou[0]
                outputs[f"{name}_mask"] = segmenter.decode(embedding, *prompt, masks)[0][0, 0]
                return low_res

            points, signs, box = record["points"], record["point_labels"], record["box"]
            run("point", points[:1], signs[:1])
            for segmenter.stability, prefix in ((False, ""), (True, "stable_")):
                run(f"{prefix}points", points, signs)
                low_res = run(f"{prefix}box", box, [2, 3])
                run(f"{prefix}box_points", [box[:2], box[2:], *points], [2, 3, *signs])
                run(f"{prefix}box_mask", box, [2, 3], low_res)
                if not prefix:
                    run("mask", [0.0, 0.0], [-1], low_res)
        return {name: outputs[name] for name in record["outputs"] if name in outputs}

    def test_masks_of_all_prompts_are_the_authors(self, record: dict[str, Any], outputs: dict[str, Tensor]) -> None:
        recorded = {
            name: entry for name, entry in record["outputs"].items() if not name.startswith(("video", "absent"))
        }
        assert len(recorded) == 25
        parity.compare({"outputs": recorded}, outputs, tolerance=TOLERANCE)

    def test_an_unstable_mask_gives_way_where_asked(self, outputs: dict[str, Tensor]) -> None:
        assert (outputs["stable_box_low_res"] - outputs["box_low_res"]).abs().max() > 1


@pytest.mark.parametrize("run", ["video", "absent"])
def test_objects_are_tracked_as_by_the_authors(record: dict[str, Any], run: str) -> None:
    """Three objects over twelve frames, both ways: a box, a lone point, points and later a box.

    In the second run the decoder finds no object on the prompted frames, which the memory has to tell.
    """
    segmenter = seeded(record["weight_seed" if run == "video" else "absent_weight_seed"], record["video_size"])
    clip = parity.seeded_input((12, 3, 64, 96), record["video_seed"]).round()
    prompts = {}
    for frame in (3, 8):
        coords, labels = torch.zeros(3, 3, 2), torch.full((3, 3), -1)
        for number, given in record["video_prompts"].items():
            for row, (place, sign) in enumerate(zip(*given.get(str(frame), ((), ())), strict=True)):
                coords[int(number), row], labels[int(number), row] = torch.tensor(place), sign
        prompts[frame] = coords, labels
    tracked = dict(segmenter.track(lambda index: clip[index], range(12), prompts))
    outputs = {
        f"{run}_{number}": torch.stack([tracked[frame][number] for frame in range(12)]).clamp(
            -record["video_clamp"], record["video_clamp"]
        )
        for number in range(3)
    }
    expected = {name: entry for name, entry in record["outputs"].items() if name in outputs}
    parity.compare({"outputs": expected}, outputs, tolerance=TRACKING_TOLERANCE)


class TestKeys:
    @pytest.mark.parametrize("variant", COUNTS)
    def test_every_tensor_of_the_authors_file_finds_its_place(self, variant: str) -> None:
        keys = read_keys(f"sam2.1_hiera_{variant}")
        assert len(keys) == COUNTS[variant]
        with torch.device("meta"):
            segmenter = Sam2Segmenter(variant, "random")
        load_checked(segmenter, rename_sam2(keys), origin=variant)
        # 4 point embeddings become 1 tensor, and the matrix of the position encoding is held twice.
        assert len(segmenter.state_dict()) == len(keys) - 3 + 1

    @pytest.mark.parametrize("lost", [None, "shared_image_embedding", "prompt_encoder.shared_embedding"])
    def test_every_tensor_of_transformers_file_finds_its_place(self, lost: str | None) -> None:
        keys = read_keys("sam2video_hf")
        keys.pop(f"{lost}.positional_embedding", None)
        with torch.device("meta"):
            segmenter = Sam2Segmenter("tiny", "random")
        load_checked(segmenter, rename_sam2(keys), origin="hf")

    def test_own_names_stay(self, tiny: Sam2Segmenter) -> None:
        state = tiny.state_dict()
        assert list(rename_sam2(state)) == list(state)
        assert all(name.startswith(PREFIX) for name in state)

    def test_a_file_without_memory_is_refused_with_counts(self) -> None:
        with torch.device("meta"):
            segmenter = Sam2Segmenter("tiny", "random")
        with pytest.raises(WeightsError, match="309 of 469 tensors match, 160 missing, 0 unexpected"):
            load_checked(segmenter, rename_sam2(read_keys("sam2_hf")), origin="image only")

    def test_a_file_of_another_size_is_refused(self) -> None:
        with torch.device("meta"):
            segmenter = Sam2Segmenter("tiny", "random")
        with pytest.raises(WeightsError, match="another model than Sam2Segmenter"):
            load_checked(segmenter, rename_sam2(read_keys("sam2.1_hiera_small")), origin="small")

    def test_a_saved_network_is_read_again(self, tiny: Sam2Segmenter, tmp_path: Path) -> None:
        torch.save(tiny.state_dict(), tmp_path / "model.pt")
        again = Sam2Segmenter("tiny", "tiny", seed=1)
        load_checked(again, rename_sam2(torch.load(tmp_path / "model.pt", weights_only=True)), origin="saved")
        assert all(
            torch.equal(a, b) for a, b in zip(again.state_dict().values(), tiny.state_dict().values(), strict=True)
        )


class TestDecoding:
    IMAGE = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0)) * 255
    BOX = torch.tensor([[5.0, 6.0], [30.0, 28.0]])

    def test_prompts_of_one_call_do_not_touch_each_other(self, tiny: Sam2Segmenter) -> None:
        embedding = tiny.embed(self.IMAGE)
        coords, labels = torch.zeros(2, 4, 5, 2), torch.full((2, 4, 5), -1)
        coords[:, 0, 3:], labels[:, 0, 3:] = self.BOX, torch.tensor([2, 3])
        coords[:, 1, 1], labels[:, 1, 1] = self.BOX[0], 1
        coords[:, 3, :2], labels[:, 3, :2] = self.BOX, torch.tensor([1, 0])
        logits, iou = tiny.decode(embedding, coords, labels)
        assert logits.shape == (2, 4, 40, 60)
        assert (logits[:, 2] - NO_PROMPT).abs().max() < 0.1
        assert iou[:, 2].abs().max() == 0
        for image in range(2):
            alone = tiny.embed(self.IMAGE[image : image + 1])
            for row in (0, 1, 3):
                kept = labels[image, row] >= 0
                single, _ = tiny.decode(
                    alone, coords[image, row][kept][None, None], labels[image, row][kept][None, None]
                )
                assert (logits[image, row] - single[0, 0]).abs().max() <= 1e-4

    @pytest.mark.parametrize("multimask", [True, False])
    def test_multimask_is_a_choice(self, tiny: Sam2Segmenter, multimask: bool) -> None:
        embedding = tiny.embed(self.IMAGE[:1])
        point, box = (self.BOX[:1], torch.tensor([1])), (self.BOX, torch.tensor([2, 3]))
        natural = [tiny.decode(embedding, c[None, None], s[None, None])[0] for c, s in (point, box)]
        chooser = Sam2Core(tiny.sam2, multimask=multimask).eval()
        chosen = [chooser.decode(embedding, c[None, None], s[None, None])[0] for c, s in (point, box)]
        assert torch.equal(chosen[0], natural[0]) == multimask
        assert torch.equal(chosen[1], natural[1]) != multimask

    def test_a_binary_mask_becomes_logits_of_the_same_place(self, tiny: Sam2Segmenter) -> None:
        embedding = tiny.embed(self.IMAGE[:1])
        mask = torch.zeros(1, 1, 40, 60)
        mask[..., 10:30, 15:45] = 1
        logits = tiny.mask_input(mask, embedding)
        assert logits.shape == tiny.decode_low_res(embedding, self.BOX[None, None], torch.tensor([[[2, 3]]]))[0].shape
        back = tiny.upscale(logits, embedding) > 0
        assert (back != mask.bool()).float().mean() < 0.03

    def test_no_object_at_all_is_an_empty_result(self, tiny: Sam2Segmenter) -> None:
        logits, iou = tiny.decode(tiny.embed(self.IMAGE), torch.zeros(2, 0, 1, 2), torch.zeros(2, 0, 1))
        assert (logits.shape, iou.shape) == ((2, 0, 40, 60), (2, 0))

    def test_mask_tokens_are_those_of_the_decoder(self, tiny: Sam2Segmenter) -> None:
        masks = tiny.token_masks(tiny.embed(self.IMAGE))
        assert masks.shape == (2, 4, 64, 64)
        assert (masks[:, 0] - masks[:, 1]).abs().max() > 0.1

    def test_gradients_reach_encoder_and_decoder(self, tiny: Sam2Segmenter) -> None:
        with torch.enable_grad():
            loss = tiny(self.IMAGE).square().sum()
            weights = (
                tiny.sam2.vision_encoder.backbone.patch_embed.projection.weight,
                tiny.sam2.mask_decoder.mask_tokens.weight,
            )
            gradients = torch.autograd.grad(loss, weights)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)

    def test_training_finds_its_parts(self, tiny: Sam2Segmenter) -> None:
        assert len({id(part(tiny, name)) for name in PARTS}) == 3

    def test_an_embedding_of_another_model_is_refused(self, tiny: Sam2Segmenter) -> None:
        from fairmedfm_monai.networks.segmenters.base import ImageEmbedding

        with pytest.raises(TypeError, match=r"must come from Sam2Segmenter\.embed"):
            tiny.decode(
                ImageEmbedding(torch.zeros(1, 64, 16, 16), (4, 4), (4, 4)),
                self.BOX[None, None],
                torch.tensor([[[2, 3]]]),
            )

    def test_texts_grey_images_and_unknown_variants_are_refused(self, tiny: Sam2Segmenter) -> None:
        embedding = tiny.embed(self.IMAGE[:1])
        with pytest.raises(ValueError, match="no text prompts"):
            tiny.decode(embedding, self.BOX[None, None], torch.tensor([[[2, 3]]]), texts=["liver"])
        with pytest.raises(ValueError, match="repeat a grey channel"):
            tiny.embed(torch.zeros(1, 1, 8, 8))
        with pytest.raises(ValueError, match="tiny, small, base_plus, large"):
            Sam2Segmenter("huge")


class TestTracking:
    CLIP = torch.rand(9, 3, 24, 32, generator=torch.Generator().manual_seed(3)) * 255
    BOX = torch.tensor([[[5.0, 6.0], [20.0, 18.0]]]), torch.tensor([[2, 3]])
    NOTHING = torch.zeros(1, 2, 2), torch.full((1, 2), -1)

    def run(self, segmenter: Sam2Core, prompts: dict[int, Any], indices: Any = range(9)) -> list[tuple[int, Tensor]]:
        return list(segmenter.track(lambda index: self.CLIP[index], indices, prompts))

    def test_every_frame_comes_once_forth_then_back(self, tiny: Sam2Segmenter) -> None:
        results = self.run(tiny, {4: self.BOX})
        assert [index for index, _ in results] == [4, 5, 6, 7, 8, 3, 2, 1, 0]
        assert all(logits.shape == (1, 24, 32) for _, logits in results)

    def test_time_is_the_order_of_the_indices(self, tiny: Sam2Segmenter) -> None:
        forth = dict(self.run(tiny, {4: self.BOX}, [2, 4, 6, 8]))
        back = dict(self.run(tiny, {4: self.BOX}, [8, 6, 4, 2]))
        assert sorted(forth) == sorted(back) == [2, 4, 6, 8]
        assert all((forth[index] - back[index]).abs().max() <= 1e-4 for index in forth)

    def test_objects_do_not_influence_each_other(self, tiny: Sam2Segmenter) -> None:
        """Five objects with three starts: more than go together, and frames between the starts come twice."""
        shifted = self.BOX[0] + 2, self.BOX[1]
        rows = {
            2: [self.BOX, self.NOTHING, shifted, self.NOTHING, self.BOX],
            5: [self.NOTHING, shifted, self.BOX, *[self.NOTHING] * 2],
        }
        prompts = {frame: tuple(torch.cat(part) for part in zip(*given, strict=True)) for frame, given in rows.items()}
        merged: dict[int, Tensor] = {}
        for index, logits in self.run(tiny, prompts):
            merged[index] = torch.maximum(merged[index], logits) if index in merged else logits
        for number, own in enumerate([{2: self.BOX}, {5: shifted}, {2: shifted, 5: self.BOX}, None, {2: self.BOX}]):
            alone = dict(self.run(tiny, own)) if own else {}
            for index in range(9):
                expected = alone[index][0] if own else torch.full((24, 32), NO_PROMPT)
                assert (merged[index][number] - expected).abs().max() <= 1e-3
                assert own is None or expected.min() > NO_OBJ_SCORE  # not trivially equal

    def test_frames_are_fetched_one_at_a_time_and_memories_are_forgotten(self, tiny: Sam2Segmenter) -> None:
        from fairmedfm_monai.networks.segmenters.sam2_tracking import Tracker

        tracker = Tracker(tiny, lambda index: self.CLIP[index % 9], range(40))
        (bank,) = tracker.start({0: self.BOX})
        for frame in range(40):
            tracker.step([bank], frame, reverse=False)
        assert sorted(bank.spatial) == list(range(34, 40))
        assert sorted(bank.pointers) == list(range(25, 40))

    def test_a_single_frame_is_its_own_result(self, tiny: Sam2Segmenter) -> None:
        ((index, logits),) = self.run(tiny, {4: self.BOX}, [4])
        assert (index, logits.shape) == (4, (1, 24, 32))

    @pytest.mark.parametrize(
        ("indices", "prompts", "message"),
        [
            (range(9), {}, "`prompts` is empty"),
            (range(3), {4: BOX}, r"frames \[4\] of `prompts` are not in `indices`"),
            ([4, 4], {4: BOX}, "each frame once"),
            (range(9), {4: NOTHING}, "nothing but padding"),
            (range(9), {4: (BOX[0][0], BOX[1])}, r"coords \(P, N, 2\)"),
        ],
    )
    def test_bad_input_is_told(self, tiny: Sam2Segmenter, indices: Any, prompts: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.run(tiny, prompts, indices)

    def test_grey_frames_are_refused(self, tiny: Sam2Segmenter) -> None:
        with pytest.raises(ValueError, match=r"`frames\(4\)` must be \(3, H, W\)"):
            next(tiny.track(lambda _: torch.zeros(1, 8, 8), range(9), {4: self.BOX}))
