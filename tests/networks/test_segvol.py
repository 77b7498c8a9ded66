"""SegVol: published names and file forms, the official code's outputs, prompts, texts and intensities."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.segmenters import segvol
from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding
from fairmedfm_monai.networks.segmenters.segvol import TINY, WINDOW, SegVolSegmenter, rename_segvol
from fairmedfm_monai.networks.segmenters.segvol_decoder import TEMPLATE, text_tokens
from tests.networks import parity
from tests.networks.test_keys import read_keys

BOX = torch.tensor([[4.0, 30, 60], [27, 200, 131]]), torch.tensor([2, 3])
POINTS = torch.tensor([[3.0, 40, 250], [20, 100, 120], [31, 7, 9]]), torch.tensor([1, 0, 1])
NOTHING = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> SegVolSegmenter:
    return SegVolSegmenter("v1", "tiny")


@pytest.fixture(scope="module")
def embedding(tiny: SegVolSegmenter) -> ImageEmbedding:
    with torch.no_grad():
        return tiny.embed(parity.seeded_input((1, 1, *WINDOW), 0, high=1.0))


def decode(
    segmenter: SegVolSegmenter, embedding: ImageEmbedding, *prompts: tuple[Tensor, Tensor], text: str = ""
) -> tuple[Tensor, Tensor]:
    """Low-resolution logits (d, h, w) and IoU of one prompt made of points, a box and a text."""
    coords, labels = (torch.cat(parts)[None, None] for parts in zip(NOTHING, *prompts, strict=True))
    low_res, iou = segmenter.decode_low_res(embedding, coords, labels, texts=[text])
    return low_res[0, 0], iou[0, 0]


class TestPublishedNames:
    def test_every_tensor_of_the_checkpoint_has_its_place(self) -> None:
        keys = read_keys("segvol")
        assert len(keys) == 475
        with torch.device("meta"):
            segmenter = SegVolSegmenter("v1", "random")
        load_checked(segmenter, rename_segvol(keys), origin="segvol")
        # All but the text encoder's table of position numbers.
        assert len(segmenter.state_dict()) == 474

    def test_the_catalog_tells_the_size_and_the_grid(self) -> None:
        row, spec = find_row("segvol"), SegVolSegmenter("v1", "tiny").volume_spec
        no_parameters = ("positional_encoding_gaussian_matrix", "position_ids")
        sizes = [tensor.numel() for name, tensor in read_keys("segvol").items() if not name.endswith(no_parameters)]
        assert row.parameters["v1"] == sum(sizes)
        grid = {**dataclasses.asdict(spec), "window": list(spec.window)}
        assert {name: row.input_spec[name] for name in grid} == grid

    def test_lora_targets_name_every_block_of_the_image_encoder_and_nothing_else(self, tiny: SegVolSegmenter) -> None:
        (target,) = find_row("segvol").lora_targets
        found = [name for name, _ in tiny.named_modules() if name.endswith(f".{target}")]
        assert found == [f"image_encoder.blocks.{block}.attn.qkv" for block in range(TINY["depth"])]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tiny: SegVolSegmenter) -> dict[str, Tensor]:
    """Weights of the tiny geometry by their published names, which then is the geometry of files too."""
    monkeypatch.setitem(segvol.GEOMETRIES, "v1", TINY)
    text = "text_encoder.clip_text_model."
    state = {name.replace(text, text + "text_model."): tensor for name, tensor in tiny.state_dict().items()}
    return {**state, f"{text}text_model.embeddings.position_ids": torch.arange(77)[None]}


class TestFileForms:
    @pytest.mark.parametrize("name", ["SegVol_v1.pth", "pytorch_model.bin"])
    def test_both_whole_files_are_read(
        self, name: str, published: dict[str, Tensor], tiny: SegVolSegmenter, tmp_path: Path
    ) -> None:
        if name == "SegVol_v1.pth":
            content: Any = {"epoch": 9, "model": {f"module.{key}": value for key, value in published.items()}}
        else:
            content = {f"model.{key}": value for key, value in published.items()}
        torch.save(content, tmp_path / name)
        loaded = SegVolSegmenter("v1", tmp_path / name, seed=5).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in tiny.state_dict().items())

    def test_the_pretrained_image_encoder_alone_is_refused(self, published: dict[str, Tensor], tmp_path: Path) -> None:
        encoder = {
            key.replace("image_", "model.", 1): value
            for key, value in published.items()
            if key.startswith("image_encoder.")
        }
        torch.save({"state_dict": encoder}, tmp_path / "ViT_pretrain.ckpt")
        with pytest.raises(WeightsError, match=rf"image encoder alone \({len(encoder)} tensors.*SegVol_v1.pth"):
            SegVolSegmenter("v1", tmp_path / "ViT_pretrain.ckpt")

    def test_a_file_with_a_hole_is_refused_with_counts(self, published: dict[str, Tensor], tmp_path: Path) -> None:
        del published["text_encoder.dim_align.bias"]
        torch.save({"model": published}, tmp_path / "SegVol_v1.pth")
        total = len(published)
        with pytest.raises(WeightsError, match=rf"{total - 1} of {total} tensors match, 1 missing, 0 unexpected"):
            SegVolSegmenter("v1", tmp_path / "SegVol_v1.pth")

    def test_an_unknown_variant_is_refused(self) -> None:
        with pytest.raises(ValueError, match="`variant` must be one of v1"):
            SegVolSegmenter("v2", "tiny")


class TestOfficialCode:
    def test_outputs_are_the_recorded_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Full geometry but for the depth of the two library transformers (MONAI's ViT, CLIP's text model).

        The official code ran on the CPU with MONAI's current ViT as its image encoder.
        """
        record = parity.read("segvol")
        depth = record["depth"]
        shallow = {**segvol.GEOMETRIES["v1"], "depth": depth, "text": {"num_hidden_layers": depth}}
        monkeypatch.setitem(segvol.GEOMETRIES, "v1", shallow)
        deep = re.compile(r"(?:image_encoder\.blocks|text_model\.encoder\.layers)\.(\d+)\.")
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in read_keys("segvol").items()
            if not (found := deep.search(name)) or int(found[1]) < depth
        }
        segmenter = SegVolSegmenter("v1", "random")
        load_checked(segmenter, rename_segvol(parity.seeded_state(shapes, record["weight_seed"])), origin="seeded")
        embedding = segmenter.embed(parity.seeded_input((1, 1, *WINDOW), record["input_seed"], high=1.0))
        points = torch.tensor(record["points"]), torch.tensor(record["point_labels"])
        box = torch.tensor(record["box"]), torch.tensor([2, 3])
        texts = record["texts"]
        outputs = {"embedding": embedding.features, "text_tokens": segmenter.text_encoder(list(record["tokens"]))}
        for name, parts in {
            "points": (points,),
            "box": (box,),
            "text": (),
            "points_box_text": (points, box),
        }.items():
            low_res, iou = decode(segmenter, embedding, *parts, text=texts.get(name, ""))
            outputs[f"{name}.low_res"], outputs[f"{name}.iou"] = low_res[None], iou[None]
        outputs["box.logits"] = segmenter.upscale(outputs["box.low_res"][None], embedding)[0]
        parity.compare(record, outputs, tolerance=1e-4)


class TestTexts:
    def test_tokens_are_those_of_the_authors_tokenizer(self) -> None:
        recorded = parity.read("segvol")["tokens"]
        assert {text: text_tokens(text) for text in recorded} == recorded

    def test_padding_of_a_batch_would_change_nothing(self, tiny: SegVolSegmenter) -> None:
        """The authors pad with the end token and mask it; here each text goes alone."""
        words = ["liver", "portal vein and splenic vein", "left kidney"]
        tokens = [text_tokens(word) for word in words]
        length = max(map(len, tokens))
        padded = torch.tensor([row + [49407] * (length - len(row)) for row in tokens])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
        pooled = tiny.text_encoder.clip_text_model(input_ids=padded, attention_mask=mask).pooler_output
        expected = tiny.text_encoder.dim_align(pooled)
        assert (tiny.text_encoder(words) - expected).abs().max() <= 1e-5
        assert (expected[0] - expected[2]).abs().max() > 1e-2

    def test_a_text_of_one_prompt_leaves_the_others_alone(
        self, tiny: SegVolSegmenter, embedding: ImageEmbedding
    ) -> None:
        coords, labels = BOX[0].expand(1, 3, 2, 3), BOX[1].expand(1, 3, 2)
        together = tiny.decode_low_res(embedding, coords, labels, texts=["liver", "", "spleen"])[0][0]
        alone = [decode(tiny, embedding, BOX, text=text)[0] for text in ("liver", "", "spleen")]
        assert (together - torch.stack(alone)).abs().max() <= 1e-5
        assert min((alone[0] - alone[1]).abs().max(), (alone[0] - alone[2]).abs().max()) > 1e-3

    def test_a_text_is_encoded_once_and_again_after_other_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = SegVolSegmenter("v1", "tiny", seed=1).text_encoder
        other = SegVolSegmenter("v1", "tiny", seed=2).text_encoder
        names, calls = set(encoder.state_dict()), []
        real = encoder._pool
        monkeypatch.setattr(encoder, "_pool", lambda text: calls.append(text) or real(text))
        before = encoder(["liver"])
        assert torch.equal(encoder(["liver"]), before)
        encoder(["liver", "spleen"])
        assert calls == ["liver", "spleen"]
        assert set(encoder.state_dict()) == names
        encoder.load_state_dict(other.state_dict())
        assert torch.equal(encoder(["liver"]), other(["liver"]))

    def test_a_cached_text_can_be_trained_with(self, tiny: SegVolSegmenter, embedding: ImageEmbedding) -> None:
        segmenter = copy.deepcopy(tiny)
        with torch.inference_mode():
            decode(segmenter, embedding, text="liver")
        with torch.enable_grad():
            decode(segmenter, embedding, text="liver")[0].square().sum().backward()
        assert segmenter.text_encoder.dim_align.weight.grad is not None
        assert segmenter.mask_decoder.txt_align_upscaled_embedding.weight.grad.abs().max() > 0
        # Frozen, as the authors trained it.
        assert not any(weight.requires_grad for weight in segmenter.text_encoder.clip_text_model.parameters())

    def test_a_long_text_is_refused(self, tiny: SegVolSegmenter, embedding: ImageEmbedding) -> None:
        sentence = "the liver and the spleen " * 20
        assert len(TEMPLATE.format(sentence).split()) > 77
        with pytest.raises(ValueError, match=r"makes \d+ tokens.*at most 77"):
            decode(tiny, embedding, text=sentence)


class TestPrompts:
    def test_each_kind_counts(self, tiny: SegVolSegmenter, embedding: ImageEmbedding) -> None:
        moved, signs = (BOX[0] + 3, BOX[1]), (POINTS[0], 1 - POINTS[1])
        results = [
            decode(tiny, embedding, *parts, text=text)[0]
            for parts, text in (
                ((BOX,), ""),
                ((moved,), ""),
                ((POINTS,), ""),
                ((signs,), ""),
                ((POINTS, BOX), ""),
                ((), "liver"),
                ((), "spleen"),
                ((BOX,), "liver"),
            )
        ]
        for index, first in enumerate(results):
            assert all((first - second).abs().max() > 1e-4 for second in results[:index])

    def test_padding_beside_other_prompts_changes_nothing(
        self, tiny: SegVolSegmenter, embedding: ImageEmbedding
    ) -> None:
        """Seven prompts of five make-ups in one call, more of one make-up than are decoded at once."""
        coords, labels = torch.zeros(1, 7, 6, 3), torch.full((1, 7, 6), -1)
        boxes = [BOX[0] + shift for shift in range(5)]
        for row, box in enumerate(boxes):
            coords[0, row, 4:], labels[0, row, 4:] = box, BOX[1]
        coords[0, 0, 1:4], labels[0, 0, 1:4] = POINTS
        coords[0, 5, 2], labels[0, 5, 2] = POINTS[0][0], POINTS[1][0]
        low_res, iou = tiny.decode_low_res(embedding, coords, labels)
        alone = [decode(tiny, embedding, POINTS, (boxes[0], BOX[1]))]
        alone += [decode(tiny, embedding, (box, BOX[1])) for box in boxes[1:]]
        alone += [decode(tiny, embedding, tuple(part[:1] for part in POINTS))]
        assert (low_res[0, :6] - torch.stack([mask for mask, _ in alone])).abs().max() <= 1e-5
        assert (iou[0, :6] - torch.stack([score for _, score in alone])).abs().max() <= 1e-5
        assert (low_res[0, 6] == NO_PROMPT).all()
        assert iou[0, 6] == 0

    def test_windows_of_a_batch_do_not_touch_each_other(self, tiny: SegVolSegmenter) -> None:
        windows = parity.seeded_input((2, 1, *WINDOW), 3, high=1.0)
        logits = tiny(windows)
        assert logits.shape == (2, 1, *WINDOW)
        for number in range(2):
            assert (tiny(windows[number][None])[0] - logits[number]).abs().max() <= 1e-5
        assert (logits[0] - logits[1]).abs().max() > 1e-3

    def test_masks_are_brought_to_the_window_by_their_voxel_centres(
        self, tiny: SegVolSegmenter, embedding: ImageEmbedding
    ) -> None:
        """A ramp along each axis of the coarse grid stays that ramp between the outermost voxel centres."""
        shape = (16, 32, 32)
        axes = [(torch.arange(n) + 0.5) / n for n in shape]
        logits = tiny.upscale(sum(torch.meshgrid(*axes, indexing="ij"))[None, None], embedding)
        expected = sum(torch.meshgrid(*[(torch.arange(n) + 0.5) / n for n in WINDOW], indexing="ij"))
        inner = tuple(slice(n // m, -(n // m)) for n, m in zip(WINDOW, shape, strict=True))
        assert logits.shape == (1, 1, *WINDOW)
        assert (logits[0, 0] - expected)[inner].abs().max() <= 1e-5

    def test_all_mask_tokens_without_a_prompt(self, tiny: SegVolSegmenter, embedding: ImageEmbedding) -> None:
        masks = tiny.token_masks(embedding)
        assert masks.shape == (1, 4, 16, 32, 32)
        assert all((masks[0, i] - masks[0, j]).abs().max() > 1e-4 for i in range(4) for j in range(i))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda net, e: net.decode(e, *_batch(BOX), torch.zeros(1, 1, 16, 32, 32)), "takes no mask prompts.*text"),
            (lambda net, e: net.decode(e, BOX[0][None, None, :, :2], BOX[1][None, None]), r"\(1, P, N, 3\)"),
            (lambda net, e: net.decode(e, *_batch((BOX[0], torch.tensor([2, 4])))), r"not \{4\}"),
            (lambda net, e: net.decode(e, *_batch((BOX[0], torch.tensor([2, 1])))), "one box"),
            (lambda net, e: net.decode(e, *_batch(BOX), texts=["a", "b"]), "each of 1 prompts, but holds 2"),
            (lambda net, _: net.embed(torch.zeros(1, 1, 32, 128, 128)), r"\(B, 1, 32, 256, 256\).*\(1, 1, 32, 128"),
        ],
    )
    def test_bad_input_is_refused(
        self,
        tiny: SegVolSegmenter,
        embedding: ImageEmbedding,
        call: Callable[[SegVolSegmenter, ImageEmbedding], Any],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            call(tiny, embedding)


def _batch(prompt: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return prompt[0][None, None], prompt[1][None, None]


def published_intensities(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    """The steps of the authors' preprocessing: clip, z-score by the foreground, minimum and maximum to 0 and 1."""
    foreground = volume[volume > volume.mean()]
    clipped = np.clip(volume, np.percentile(foreground, 0.05), np.percentile(foreground, 99.95))
    scored = (clipped - foreground.mean()) / max(foreground.std(), 1e-8)
    scored -= scored.min()
    return scored / max(scored.max(), 1e-8)


def volumes() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    noise = random.normal(size=(24, 30, 40))
    outlier = noise.copy()
    outlier[0, 0, 0], outlier[1, 1, 1] = 1e8, -1e8
    arrays = {
        "hounsfield": np.where(noise > 0, 40 + 30 * noise, -1000).round(),
        "negative": noise * 50 - 5000,
        "skewed": np.exp(3 * noise),
        "outlier": outlier,
        "few": random.normal(size=(3, 1, 2)),
        "binary": noise > 1,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


class TestIntensities:
    @pytest.mark.parametrize("name", volumes())
    def test_volumes_are_prepared_as_the_authors_do(self, tiny: SegVolSegmenter, name: str) -> None:
        volume = volumes()[name]
        expected = published_intensities(volume.astype(np.float64))
        # A view with other strides, as a change of orientation leaves it.
        prepared = tiny.prepare(torch.from_numpy(volume).permute(2, 1, 0)[None])
        assert prepared.dtype == torch.float32
        # Half a step of float32 at the offset of 5,000, over a range of 200, is 1e-6.
        assert np.abs(prepared[0].permute(2, 1, 0).numpy() - expected).max() <= 1e-5

    def test_the_volume_given_stays_as_it_is(self, tiny: SegVolSegmenter) -> None:
        volume = torch.from_numpy(volumes()["hounsfield"])[None]
        before = volume.clone()
        tiny.prepare(volume)
        assert torch.equal(volume, before)

    @pytest.mark.parametrize("value", [0.0, 7.3, -1024.0])
    def test_a_constant_volume_becomes_zero(self, tiny: SegVolSegmenter, value: float) -> None:
        assert torch.equal(tiny.prepare(torch.full((1, 5, 6, 7), value)), torch.zeros(1, 5, 6, 7))

    def test_voxels_that_are_no_numbers_do_not_count(self, tiny: SegVolSegmenter) -> None:
        volume = torch.from_numpy(volumes()["hounsfield"])[None]
        holes = volume.clone()
        holes[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
        prepared = tiny.prepare(holes)
        assert prepared[0, 0, 0, :3].tolist() == [0, 1, 0]
        assert (prepared - tiny.prepare(volume)).flatten()[3:].abs().max() < 0.01
        assert torch.equal(tiny.prepare(torch.full((1, 2, 2, 2), float("nan"))), torch.zeros(1, 2, 2, 2))


def test_a_seed_decides_the_weights() -> None:
    first, same, other = (SegVolSegmenter("v1", "tiny", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["mask_decoder.iou_token.weight"], other["mask_decoder.iou_token.weight"])
