"""BLIP-2: outputs that LAVIS' code gave on seeded weights, and the names of its files and of transformers' copy."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import blip2
from fairmedfm_monai.networks.encoders.blip2 import GEOMETRY, BLIP2Encoder, BLIP2MatchingHead
from fairmedfm_monai.networks.encoders.blip2_files import rename_blip2, rename_eva
from fairmedfm_monai.networks.text import Tokens
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier
from tests.networks import blip_checks, clip_checks, encoder_checks, matching_checks, parity
from tests.networks.test_keys import read_keys

# Of both forms, everything from the third block and the fifth layer of the Q-Former on.
DEEP = re.compile(r".*(blocks|encoder\.layers)\.([2-9]|\d\d)\..*|.*ormer.*encoder\.layer\.([4-9]|\d\d)\..*")


def shallow(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in read_keys(name).items() if not DEEP.fullmatch(key)}


@pytest.fixture
def few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    vision, former = {**GEOMETRY["vision"], "depth": 2}, {**GEOMETRY["former"], "num_hidden_layers": 4}
    monkeypatch.setattr(blip2, "GEOMETRY", {**GEOMETRY, "vision": vision, "former": former})


@torch.no_grad()
def outputs(encoder: BLIP2Encoder) -> dict[str, Tensor]:
    image, tokens = (
        blip_checks.faint_images(42),
        Tokens(torch.tensor(blip_checks.NUMBERS), torch.tensor(blip_checks.MASK)),
    )
    encoded, texts = encoder.encode_image(image), encoder.encode_tokens(tokens)
    read = encoder.visual(image)
    return {
        "tokens": read,
        "features": encoded["features"],
        "image": encoded["local"],
        "text": texts["zero_shot"],
        "logits": encoder.similarity(encoded, texts),
        "match": BLIP2MatchingHead(tokens, [1, 1], encoder)(read.flatten(1)),
    }


@pytest.mark.usefixtures("few_layers")
class TestOutputs:
    def test_both_heads_are_those_of_lavis(self) -> None:
        encoder = BLIP2Encoder("pretrain", "random")
        state = blip_checks.blip_state(shallow("blip2_stage1_lavis"), 42)
        load_checked(encoder, rename_blip2(state), origin="seeded")
        parity.compare(parity.read("blip2"), outputs(encoder), tolerance=1e-4)
        encoder.visual.norm.eps = 1e-6  # transformers' class has it so; no name or shape tells
        with pytest.raises(AssertionError, match="tokens"):
            parity.compare(parity.read("blip2"), outputs(encoder), tolerance=1e-4)

    @torch.no_grad()
    def test_both_heads_are_those_of_transformers(self) -> None:
        """The class of the hub's copy, through the mapping of its names, with LAVIS' eps."""
        from transformers import Blip2Config, Blip2ForImageTextRetrieval

        text = {"use_qformer_text_input": True, "vocab_size": 30523, "num_hidden_layers": 4}
        config = Blip2Config(vision_config={"num_hidden_layers": 2}, qformer_config=text, image_text_hidden_size=256)
        reference = Blip2ForImageTextRetrieval(config).eval()
        reference.vision_model.post_layernorm.eps = 1e-5
        state = parity.seeded_state(shallow("blip2_itm_hf"), 43)
        for name in ("query_tokens", "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"):
            state[name] *= 768**0.5
        reference.load_state_dict(state)
        encoder = BLIP2Encoder("pretrain", "random")
        load_checked(encoder, {**rename_blip2(state), "temp": torch.tensor(0.07)}, origin="seeded")
        image = encoder_checks.images(224)
        numbers, mask = torch.tensor(blip_checks.NUMBERS), torch.tensor(blip_checks.MASK)
        expected = reference(pixel_values=image, input_ids=numbers, attention_mask=mask)
        texts = encoder.encode_tokens(Tokens(numbers, mask))["zero_shot"]
        torch.testing.assert_close(encoder.encode_image(image)["local"], expected.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(texts, expected.text_embeds, atol=1e-5, rtol=0)
        matched = reference(
            pixel_values=image, input_ids=numbers, attention_mask=mask, use_image_text_matching_head=True
        ).logits_per_image
        own = BLIP2MatchingHead(Tokens(numbers, mask), [1, 1], encoder)(encoder.visual(image).flatten(1))
        torch.testing.assert_close(own.diag(), matched[:, 1] - matched[:, 0], atol=1e-5, rtol=0)


class TestNames:
    @pytest.mark.parametrize(("name", "count"), [("blip2_stage1_lavis", 857), ("blip2_itm_hf", 809)])
    def test_every_published_tensor_is_taken_or_dropped_by_name(self, name: str, count: int) -> None:
        keys = read_keys(name)
        assert len(keys) == count
        renamed = rename_blip2(keys)
        assert ("temp" in renamed) == (name == "blip2_stage1_lavis")
        with torch.device("meta"):
            encoder = BLIP2Encoder("pretrain", "random")
            renamed.setdefault("temp", torch.empty(()))
        load_checked(encoder, renamed, origin=name)
        if name == "blip2_stage1_lavis":
            halves = sum(key.endswith((".q_bias", ".v_bias")) for key in keys)
            dropped = [key for key in keys if key.startswith("Qformer.cls.") or key.endswith("position_ids")]
            assert (halves, len(dropped)) == (78, 8)
            assert len(renamed) == 857 - 39 - 8

    def test_the_image_tower_of_its_own_file(self) -> None:
        """The names of its file are those of the tower in LAVIS, with one block and a head more."""
        keys = read_keys("blip2_stage1_lavis")
        tower = {
            name.removeprefix("visual_encoder."): keys[name] for name in keys if name.startswith("visual_encoder.")
        }
        extra = {name: torch.empty(1) for name in ("blocks.39.norm1.weight", "norm.weight", "norm.bias", "head.bias")}
        expected = {name: tensor for name, tensor in rename_blip2(keys).items() if name.startswith("visual.")}
        del expected["visual.norm.weight"], expected["visual.norm.bias"]  # trained with the Q-Former
        assert clip_checks.shapes_of(rename_eva(tower | extra)) == clip_checks.shapes_of(expected)

    def test_keys_have_no_bias(self) -> None:
        state = {
            f"visual_encoder.blocks.0.attn.{part}_bias": torch.full((3,), value)
            for part, value in (("v", 2.0), ("q", 1.0))
        }
        joined = rename_blip2(state)["visual.blocks.0.attn.qkv.bias"]
        assert joined.tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2]


class TestFiles:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """The tiny geometry for every file, no network, and a home of its own."""
        monkeypatch.setattr(blip2, "GEOMETRY", blip2.TINY)
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
        folder = tmp_path / "weights"
        folder.mkdir()
        return folder

    @pytest.fixture
    def published(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """LAVIS' names of a small network: without, and of, the image tower."""
        former: dict[str, Tensor] = {"Qformer.cls.predictions.bias": torch.zeros(2)}
        tower: dict[str, Tensor] = {}
        for name, tensor in BLIP2Encoder(weights="tiny", seed=5).state_dict().items():
            if name.startswith("visual.norm."):
                former[name.replace("visual.norm", "ln_vision")] = tensor
            elif name.endswith("qkv.bias"):
                layer = name.removeprefix("visual.").removesuffix("qkv.bias")
                tower[f"{layer}q_bias"], _, tower[f"{layer}v_bias"] = tensor.half().chunk(3)
            elif name.startswith("visual."):
                tower[name.removeprefix("visual.")] = tensor.half()
            else:
                inner = re.sub(r"^text\.", "Qformer.bert.embeddings.", name)
                inner = re.sub(r"^qformer\.layernorm", "Qformer.bert.embeddings.LayerNorm", inner)
                inner = re.sub(r"^qformer\.", "Qformer.bert.", inner)
                former[inner.replace("attention.attention.", "attention.self.")] = tensor
        return {**former, "temp": torch.tensor(0.03)}, {**tower, "head.bias": torch.zeros(1)}

    def test_the_image_tower_comes_from_the_second_file(
        self, published: tuple[dict[str, Tensor], dict[str, Tensor]], small: Path
    ) -> None:
        former, tower = published
        torch.save({"model": former}, small / "blip2_pretrained.pth")
        with pytest.raises(WeightsError, match=r"put eva_vit_g.pth into .*eva_vit_g.pth"):
            BLIP2Encoder()
        torch.save(tower, small / "eva_vit_g.pth")
        encoder = BLIP2Encoder()
        assert encoder.visual.cls_token.dtype == torch.float32  # the file is in half precision
        torch.testing.assert_close(encoder.visual.cls_token, tower["cls_token"].float())
        assert torch.equal(encoder.visual.norm.weight, former["ln_vision.weight"])
        torch.testing.assert_close(encoder.logit_terms()[0], torch.tensor(1 / 0.03))

    def test_the_image_tower_may_lie_beside_a_file_given_by_path(
        self, published: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path
    ) -> None:
        former, tower = published
        torch.save({"model": former}, tmp_path / "mine.pth")
        torch.save(tower, tmp_path / "eva_vit_g.pth")
        encoder = BLIP2Encoder("pretrain", tmp_path / "mine.pth")
        torch.testing.assert_close(encoder.visual.cls_token, tower["cls_token"].float())

    def test_a_file_without_temperature_is_told(self, tmp_path: Path) -> None:
        state: dict[str, Any] = dict(BLIP2Encoder(weights="tiny").state_dict())
        del state["temp"]
        torch.save(state, tmp_path / "file.pth")
        with pytest.warns(UserWarning, match=r"does not hold the temperature.*0.07"):
            assert BLIP2Encoder("pretrain", tmp_path / "file.pth").temp == 0.07

    def test_a_partial_file_and_another_models_are_refused(self, tmp_path: Path) -> None:
        state = dict(BLIP2Encoder(weights="tiny").state_dict())
        del state["itm_head.bias"]
        encoder_checks.check_refusals(BLIP2Encoder, "pretrain", tmp_path / "file.pth", state, "1 missing, 0 unexpected")
        encoder_checks.check_refusals(
            BLIP2Encoder, "pretrain", tmp_path / "file.pth", {"fc.weight": torch.zeros(1)}, "0 of .* tensors match"
        )

    def test_no_file(self) -> None:
        with pytest.raises(WeightsError, match=r"put blip2_pretrained.pth \(or blip2_itm.safetensors\) into"):
            BLIP2Encoder()


def test_interface() -> None:
    matching_checks.check_interface(BLIP2Encoder, "blip2", "pretrain")
    matching_checks.check_texts(BLIP2Encoder, "pretrain")


def test_releasing_the_text_drops_the_layers_for_texts() -> None:
    with torch.device("meta"):
        encoder = BLIP2Encoder("pretrain", "random")
    whole = sum(parameter.numel() for parameter in encoder.parameters())
    texts = sum(
        parameter.numel()
        for part in (encoder.text, encoder.text_proj, encoder.itm_head)
        for parameter in part.parameters()
    )
    for layer in encoder.qformer.encoder.layer:
        texts += sum(
            parameter.numel() for part in (layer.intermediate, layer.output) for parameter in part.parameters()
        )
    encoder.release_text()
    assert whole - sum(parameter.numel() for parameter in encoder.parameters()) == texts
    assert texts > 80e6


def test_variants() -> None:
    encoder_checks.check_variants(BLIP2Encoder, "blip2")


class TestZeroShot:
    def test_the_nearest_query_counts(self) -> None:
        clip_checks.check_zero_shot(BLIP2Encoder, "pretrain")

    @torch.no_grad()
    def test_prompts_are_averaged_and_the_background_subtracted(self) -> None:
        encoder, image = BLIP2Encoder("pretrain", "tiny"), encoder_checks.images(224, amplitude=2)
        groups = {"no": ["healthy", "a chest without finding"], "yes": ["ill"]}
        means = torch.stack([encoder.encode_text(group)["zero_shot"].mean(dim=0) for group in groups.values()])
        plain = encoder.encode_text(["an image"])["zero_shot"]
        queries = encoder.encode_image(image)["local"]
        cosines = nn.functional.cosine_similarity(queries[:, :, None], torch.cat([means, plain]), dim=-1).amax(dim=1)
        model = ZeroShotClassifier(encoder, groups, background=["an image"])
        torch.testing.assert_close(model(image), (cosines[:, :2] - cosines[:, 2:]) / 0.07, atol=1e-4, rtol=0)
        with pytest.raises(ValueError, match=r"must be \(\.\.\., 4 \* 24\)"):
            model.head(queries[:, 0])

    def test_the_matching_head(self) -> None:
        matching_checks.check_matching_classifier(BLIP2Encoder, "pretrain", limit=32)

    def test_the_matching_head_compares_no_embeddings(self) -> None:
        encoder = BLIP2Encoder("pretrain", "tiny", head="matching")
        with pytest.raises(ValueError, match="`head` is matching"):
            encoder.similarity({}, {})


def test_lora() -> None:
    clip_checks.check_lora(BLIP2Encoder, "blip2", "pretrain", depth=39)
