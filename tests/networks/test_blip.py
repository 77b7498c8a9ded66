"""BLIP: outputs that the authors' code gave on seeded weights, and the names of their pre-training file."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import blip
from fairmedfm_monai.networks.encoders.blip import GEOMETRY, BLIPEncoder, BLIPMatchingHead, rename_blip
from fairmedfm_monai.networks.text import StandInTokenizer, Tokens
from tests.networks import blip_checks, clip_checks, encoder_checks, matching_checks, parity
from tests.networks.test_keys import read_keys

ENC = 30523  # the official tokenizer's last token


def recorded_shapes() -> dict[str, tuple[int, ...]]:
    """Of the published tensors those that are used, with two layers in each tower."""
    used = re.compile(r"(visual_encoder|text_encoder|vision_proj|text_proj|itm_head)\..*|temp")
    shapes = {name: tuple(tensor.shape) for name, tensor in read_keys("blip_base_pretrain").items()}
    deep = re.compile(r".*(blocks|layer)\.([2-9]|1\d)\..*|.*position_ids")
    return {name: shape for name, shape in shapes.items() if used.fullmatch(name) and not deep.fullmatch(name)}


def two_layers(**text: Any) -> dict[str, Any]:
    return {
        **GEOMETRY,
        "vision": {**GEOMETRY["vision"], "depth": 2},
        "text": {**GEOMETRY["text"], "num_hidden_layers": 2, **text},
    }


@torch.no_grad()
def outputs(encoder: BLIPEncoder, *, first: int = ENC) -> dict[str, Tensor]:
    load_checked(encoder, rename_blip(blip_checks.blip_state(recorded_shapes(), 41)), origin="seeded")
    image, tokens = (
        blip_checks.faint_images(41),
        Tokens(torch.tensor(blip_checks.NUMBERS), torch.tensor(blip_checks.MASK)),
    )
    encoded, texts = encoder.encode_image(image), encoder.encode_tokens(tokens)
    ask = Tokens(tokens.ids.clone(), tokens.mask)
    ask.ids[:, 0] = first
    head = BLIPMatchingHead(ask, [1, 1], encoder)
    return {
        "tokens": encoded["local"],
        "features": encoded["features"],
        "image": encoded["zero_shot"],
        "text": texts["zero_shot"],
        "logits": encoder.similarity(encoded, texts),
        "match": head(encoded["local"].flatten(1)),
    }


class TestOfficialOutputs:
    def test_both_heads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blip, "GEOMETRY", two_layers())
        encoder = BLIPEncoder("base", "random", head="matching")
        parity.compare(parity.read("blip"), outputs(encoder), tolerance=1e-4)

    @pytest.mark.parametrize("trap", ["text heads", "eps", "first token", "no padding mask"])
    def test_the_recording_notices_what_names_and_shapes_do_not(
        self, trap: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blip, "GEOMETRY", two_layers(num_attention_heads=8 if trap == "text heads" else 12))
        encoder = BLIPEncoder("base", "random", head="matching")
        if trap == "eps":
            for module in encoder.visual.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = 1e-5
        if trap == "no padding mask":
            monkeypatch.setattr(blip_checks, "MASK", torch.ones(2, 9).long().tolist())
        changed = outputs(encoder, first=101 if trap == "first token" else ENC)
        with pytest.raises(AssertionError):
            parity.compare(parity.read("blip"), changed, tolerance=1e-4)


class TestNames:
    def test_every_published_tensor_is_taken_or_dropped_by_name(self) -> None:
        keys = read_keys("blip_base_pretrain")
        assert len(keys) == 1272
        renamed = rename_blip(keys)
        assert len(renamed) == 473  # the temperature among them, the text tower's position_ids not
        with torch.device("meta"):
            encoder = BLIPEncoder("base", "random")
        load_checked(encoder, renamed, origin="blip")
        taken = {re.sub(r"^(visual|text)\.", r"\1_encoder.", name) for name in renamed}
        averaged = {name.replace(".", "_m.", 1) for name in taken if not name.startswith(("itm_head", "temp"))}
        assert averaged < set(keys)
        rest = set(keys) - taken - averaged
        assert {name for name in rest if not name.startswith("text_decoder.")} == {
            "image_queue",
            "text_queue",
            "queue_ptr",
            "text_encoder.embeddings.position_ids",
            "text_encoder_m.embeddings.position_ids",
        }

    def test_the_matching_token_is_the_last_of_the_vocabulary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blip, "GEOMETRY", two_layers())
        parts = BLIPEncoder("base", "random", head="matching").local_parts({"a": ["effusion"]})
        assert parts is not None
        head = parts[1]
        begin = StandInTokenizer(30524).numbers("effusion")[1:]
        assert head.numbers[0, : 1 + len(begin)].tolist() == [ENC, *begin]
        assert head.mask.sum() == 1 + len(begin)
        assert head.numbers.shape == (1, 35)


class TestFiles:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The tiny geometry for every file, no network, and a home of its own."""
        monkeypatch.setattr(blip, "GEOMETRY", blip.TINY)
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")

    @pytest.fixture
    def published(self) -> dict[str, Tensor]:
        """The authors' names, with some of what only pre-training needs."""
        state = BLIPEncoder(weights="tiny", seed=5).state_dict()
        named = {re.sub(r"^(visual|text)\.", r"\1_encoder.", name): tensor for name, tensor in state.items()}
        unused = {name: torch.zeros(2) for name in ("queue_ptr", "text_proj_m.bias", "text_decoder.cls.bias")}
        return {**named, **unused, "temp": torch.tensor(0.03)}

    def test_the_authors_container_is_read_and_the_temperature_kept(
        self, published: dict[str, Tensor], tmp_path: Path
    ) -> None:
        (tmp_path / "weights").mkdir()
        torch.save({"model": published, "epoch": 19}, tmp_path / "weights" / "model_base_capfilt_large.pth")
        encoder = BLIPEncoder()
        assert torch.equal(encoder.visual.cls_token, published["visual_encoder.cls_token"])
        torch.testing.assert_close(encoder.logit_terms()[0], torch.tensor(1 / 0.03))
        assert "temp" in encoder.state_dict()
        assert "temp" not in dict(encoder.named_parameters())
        with pytest.raises(WeightsError, match=r"the tokenizer is not here.*blip.*bert-base-uncased"):
            encoder.encode_text(["pneumonia"])

    def test_no_file(self) -> None:
        with pytest.raises(WeightsError, match=r"put model_base_capfilt_large.pth into .*storage.googleapis.com"):
            BLIPEncoder()

    def test_a_partial_file_is_refused_with_counts(self, published: dict[str, Tensor], tmp_path: Path) -> None:
        del published["temp"], published["itm_head.bias"]
        message = r"2 missing, 0 unexpected, 0 of another shape.*itm_head.bias"
        encoder_checks.check_refusals(BLIPEncoder, "base", tmp_path / "file.pth", published, message)


def test_prompts_beyond_the_positions_are_counted() -> None:
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than BLIP's 512 tokens"):
        BLIPEncoder("base", "tiny").encode_text(["short", "word " * 600])


def test_interface() -> None:
    matching_checks.check_interface(BLIPEncoder, "blip", "base")
    matching_checks.check_texts(BLIPEncoder, "base")


def test_torchscript_gives_the_same_features() -> None:
    encoder, image = BLIPEncoder("base", "tiny"), encoder_checks.images(224)
    encoder.release_text()
    with torch.no_grad():
        assert torch.equal(torch.jit.script(encoder)(image), encoder(image))


def test_variants() -> None:
    encoder_checks.check_variants(BLIPEncoder, "blip")


def test_zero_shot() -> None:
    clip_checks.check_zero_shot(BLIPEncoder, "base")


def test_matching() -> None:
    matching_checks.check_matching_classifier(BLIPEncoder, "base", limit=35)


def test_lora() -> None:
    clip_checks.check_lora(BLIPEncoder, "blip", "base", depth=12)
