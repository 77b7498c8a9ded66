"""BiomedCLIP: open_clip's own network of the hub's configuration, on equal seeded weights."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import biomedclip
from fairmedfm_monai.networks.encoders.biomedclip import BiomedCLIPEncoder, rename_biomedclip
from fairmedfm_monai.networks.text import StandInTokenizer
from tests.networks import clip_checks as checks
from tests.networks import encoder_checks
from tests.networks.test_keys import read_keys


def open_clip_model(folder: Path) -> CustomTextCLIP:
    """The network that open_clip builds from the hub's open_clip_config.json; BERT's own config lies in ``folder``."""
    BertConfig(vocab_size=30522).save_pretrained(folder)
    return CustomTextCLIP(
        embed_dim=512,
        vision_cfg={
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        text_cfg={
            "hf_model_name": str(folder),
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    ).eval()


def biomed_state() -> dict[str, Tensor]:
    """Seeded weights by the published names, tables of order 1."""
    state = checks.clip_state(checks.shapes_of(read_keys("biomedclip")), 31)
    for name in ("visual.trunk.pos_embed", "visual.trunk.cls_token"):
        state[name] *= state[name].shape[1] ** 0.5 * 768**0.5
    return state


@torch.no_grad()
def test_both_embeddings_are_those_of_open_clips_network(tmp_path: Path) -> None:
    """The whole network. The reference pads prompts to 256 tokens like open_clip's tokenizer, ours to the longest."""
    state = biomed_state()
    reference = open_clip_model(tmp_path)
    reference.load_state_dict(state)
    encoder = BiomedCLIPEncoder("ViT-B-16", "random")
    load_checked(encoder, rename_biomedclip(state), origin="hub")
    image, ids = encoder_checks.images(224), encoder.token_numbers(checks.TEXTS)
    padded = F.pad(ids, (0, 256 - ids.shape[1]))
    images, texts = encoder.encode_image(image), encoder.encode_text(checks.TEXTS)
    features, embedded = reference.encode_image(image), reference.encode_text(padded, normalize=True)
    torch.testing.assert_close(images["features"], features, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts["zero_shot"], embedded, atol=1e-5, rtol=0)
    scale = state["logit_scale"].exp()
    logits = scale * F.normalize(features, dim=-1) @ embedded.T
    torch.testing.assert_close(encoder.similarity(images, texts), logits, atol=1e-5 * scale.item(), rtol=0)
    assert (texts["zero_shot"][0] - texts["zero_shot"][1]).abs().max() > 1e-3


@pytest.mark.parametrize("extra", [{}, {"text.transformer.embeddings.position_ids": torch.empty(1, 512)}])
def test_every_published_tensor_is_taken(extra: dict[str, Tensor]) -> None:
    keys = read_keys("biomedclip")
    assert len(keys) == 351
    with torch.device("meta"):
        encoder = BiomedCLIPEncoder("ViT-B-16", "random")
        load_checked(encoder, rename_biomedclip(keys | extra), origin="biomedclip")
    assert set(encoder.state_dict()) == set(keys)


class TestFiles:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The tiny geometry for every file, no network, and a home of its own."""
        monkeypatch.setattr(biomedclip, "GEOMETRY", biomedclip.TINY)
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")

    def test_weights_are_found_offline_and_the_vocabulary_is_asked_for_on_first_use(self, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        state = BiomedCLIPEncoder(weights="tiny", seed=5).state_dict()
        checks.saved(state, tmp_path / "weights" / "biomedclip.bin")
        encoder = BiomedCLIPEncoder()
        assert torch.equal(encoder.visual.head.proj.weight, state["visual.head.proj.weight"])
        encoder.encode_image(encoder_checks.images(224))
        with pytest.raises(WeightsError, match=r"the tokenizer is not here.*biomedclip.*BiomedNLP-BiomedBERT"):
            encoder.encode_text(["pneumonia"])

    def test_prompts_are_cut_into_the_pieces_of_the_vocabulary(self, tmp_path: Path) -> None:
        folder = tmp_path / "weights" / "biomedclip"
        folder.mkdir(parents=True)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pneu", "##monia"]
        (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
        checks.saved(BiomedCLIPEncoder(weights="tiny").state_dict(), tmp_path / "weights" / "biomedclip.bin")
        assert BiomedCLIPEncoder().token_numbers(["Pneumonia", "pneu"]).tolist() == [[2, 5, 6, 3], [2, 5, 3, 0]]

    def test_no_file(self) -> None:
        with pytest.raises(WeightsError, match=r"put biomedclip.bin \(or biomedclip.safetensors\) into"):
            BiomedCLIPEncoder()

    def test_a_partial_file_is_refused_with_counts(self, tmp_path: Path) -> None:
        state = dict(BiomedCLIPEncoder(weights="tiny").state_dict())
        images = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
        message = rf"{len(images)} of {len(state)} tensors match, {len(state) - len(images)} missing, 0 unexpected"
        encoder_checks.check_refusals(BiomedCLIPEncoder, "ViT-B-16", tmp_path / "file.bin", images, message)


def test_untrained_weights_work_without_vocabulary_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    encoder = BiomedCLIPEncoder("ViT-B-16", "tiny")
    assert encoder.token_numbers(["a b"]).tolist() == [StandInTokenizer(512).numbers("a b")]


def test_prompts_beyond_256_tokens_are_counted() -> None:
    encoder = BiomedCLIPEncoder("ViT-B-16", "tiny")
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than BiomedCLIP's 256 tokens"):
        assert encoder.token_numbers(["short", "word " * 300]).shape == (2, 256)


def test_interface() -> None:
    checks.check_interface(BiomedCLIPEncoder, "biomedclip", "ViT-B-16", parameters=1e6)


def test_variants() -> None:
    encoder_checks.check_variants(BiomedCLIPEncoder, "biomedclip")


def test_zero_shot() -> None:
    checks.check_zero_shot(BiomedCLIPEncoder, "ViT-B-16")


def test_lora() -> None:
    checks.check_lora(BiomedCLIPEncoder, "biomedclip", "ViT-B-16", depth=12)
