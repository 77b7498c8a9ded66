"""FLAIR: outputs of the authors' code on seeded weights, names, files, LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import flair
from fairmedfm_monai.networks.encoders.flair import FLAIREncoder, rename_flair
from fairmedfm_monai.networks.text import StandInTokenizer
from tests.networks import clinical_checks as checks
from tests.networks import clip_checks, encoder_checks, parity
from tests.networks.test_keys import read_keys

PUBLISHED = {
    "visual.projection.": "vision_model.projection_head_vision.projection.",
    "visual.model.": "vision_model.model.",
    "text.projection.": "text_model.projection_head_text.projection.",
    "text.model.": "text_model.model.",
}
THIN = {**flair.RESNET50, "layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32)}


@torch.no_grad()
def test_outputs_are_those_of_the_authors_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-50 as published; BERT as published but for its depth."""
    record = parity.read("flair")
    seed, layers, texts = record["weight_seed"], record["layers"], record["texts"]
    checks.shorten_bert(monkeypatch, layers)
    encoder = FLAIREncoder("resnet50", "random")
    state = checks.published_state("flair_resnet50", seed, layers=layers)
    load_checked(encoder, rename_flair(state), origin="published")
    checks.use_vocabulary(encoder, tmp_path, monkeypatch)
    images = encoder.encode_image(parity.seeded_input((2, 3, 512, 512), seed, low=0, high=1))
    prompts = encoder.encode_text(texts)
    outputs = {
        **images,
        "text": prompts["zero_shot"],
        "padded text": torch.nn.functional.normalize(encoder.text(encoder.tokens(texts)), dim=-1),
        "logits": encoder.similarity(images, prompts),
    }
    parity.compare(record, outputs, tolerance=1e-4)


def test_padding_would_change_an_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: together with a longer prompt, the authors' mean counts the padding."""
    encoder = FLAIREncoder("resnet50", "tiny")
    with torch.no_grad():
        short = encoder.text(encoder.tokens(["a lung"]))
        padded = encoder.text(encoder.tokens(["a lung", "word " * 20]))[:1]
    assert torch.nn.functional.cosine_similarity(short, padded).item() < 0.999


@pytest.mark.parametrize("extra", [{}, {"text_model.model.embeddings.position_ids": torch.empty(1, 512)}])
def test_every_published_tensor_is_taken(extra: dict[str, Tensor]) -> None:
    keys = read_keys("flair_resnet50")
    assert len(keys) == 520
    with torch.device("meta"):
        encoder = FLAIREncoder("resnet50", "random")
        load_checked(encoder, rename_flair(keys | extra), origin="flair")
    assert len(encoder.state_dict()) == 520
    assert sum(tensor.numel() for tensor in keys.values()) == sum(map(Tensor.numel, encoder.state_dict().values()))


class TestFiles:
    @pytest.fixture
    def encoder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FLAIREncoder:
        checks.shrink(monkeypatch, tmp_path, flair, "RESNET50", THIN)
        return FLAIREncoder("resnet50", "random", seed=3)

    def test_the_hubs_file_is_found(self, encoder: FLAIREncoder, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"put flair.safetensors \(or flair_resnet.pth\) into .*jusiro2/FLAIR"):
            FLAIREncoder()
        path = tmp_path / "weights" / "flair.safetensors"
        path.parent.mkdir()
        state = checks.published(encoder, PUBLISHED)
        save_file({name: tensor for name, tensor in state.items() if "position_ids" not in name}, path)
        checks.check_pretrained(FLAIREncoder, "resnet50", path, encoder.state_dict())

    def test_the_older_file_is_found(self, encoder: FLAIREncoder, tmp_path: Path) -> None:
        path = tmp_path / "weights" / "flair_resnet.pth"
        path.parent.mkdir()
        clip_checks.saved(checks.published(encoder, PUBLISHED), path)
        checks.check_pretrained(FLAIREncoder, "resnet50", path, encoder.state_dict())

    def test_other_files_are_refused(self, encoder: FLAIREncoder, tmp_path: Path) -> None:
        state = checks.published(encoder, PUBLISHED)
        checks.check_refusal(FLAIREncoder, "resnet50", tmp_path / "file.pth", state, "vision_model.model.bn1.bias")


def test_prompts_are_lower_cased_and_cut_into_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FLAIREncoder("resnet50", "tiny")
    assert encoder.tokens(["a b"]).ids.tolist() == [StandInTokenizer(512).numbers("a b")]
    checks.use_vocabulary(encoder, tmp_path, monkeypatch)
    assert encoder.tokens(["Pneumonia Lung", "a"]).ids.tolist() == [[2, 14, 15, 19, 3], [2, 5, 3, 0, 0]]


def test_interface() -> None:
    checks.check_interface(FLAIREncoder, "flair", "resnet50", entries=["features", "zero_shot"])


def test_texts() -> None:
    checks.check_texts(FLAIREncoder, "resnet50")


def test_the_scale_is_clamped_as_in_training() -> None:
    encoder = FLAIREncoder("resnet50", "tiny")
    assert encoder.logit_terms()[0].item() == pytest.approx(1 / 0.07)
    torch.nn.init.constant_(encoder.logit_scale, 9.0)
    assert encoder.logit_terms()[0].item() == pytest.approx(100, rel=1e-4)


def test_variants() -> None:
    encoder_checks.check_variants(FLAIREncoder, "flair")


def test_zero_shot() -> None:
    clip_checks.check_zero_shot(FLAIREncoder, "resnet50")


def test_lora() -> None:
    checks.check_lora(FLAIREncoder, "resnet50", find_row("flair").lora_targets, full=16)
