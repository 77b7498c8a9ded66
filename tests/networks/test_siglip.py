"""SigLIP, SigLIP 2 and MedSigLIP: transformers' SiglipModel, which the hub names, on equal seeded weights."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked
from fairmedfm_monai.networks.encoders import siglip
from fairmedfm_monai.networks.encoders.siglip import MedSigLIPEncoder, SigLIP2Encoder, SigLIPEncoder, rename_siglip
from tests.networks import clip_checks as checks
from tests.networks import encoder_checks
from tests.networks.test_keys import read_keys

BASE = (768, 12, 3072)
SO400M = (288, 4, 1076)  # a quarter of it: heads are as wide as they are there
# Class, variant, widths (tokens, heads, hidden layers), patch and pixels.
MODELS: dict[str, tuple[type[SigLIPEncoder], str, tuple[int, int, int], int, int]] = {
    "SigLIP": (SigLIPEncoder, "base-patch16-224", BASE, 16, 224),
    "SigLIP so400m": (SigLIPEncoder, "so400m-patch14-384", SO400M, 14, 384),
    "SigLIP 2": (SigLIP2Encoder, "base-patch32-256", BASE, 32, 256),
    "MedSigLIP": (MedSigLIPEncoder, "so400m-patch14-448", SO400M, 14, 448),
}
# As open_clip calls them.
SIZES = {"base": "B", "large": "L", "so400m": "SO400M"}


def siglip_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Seeded weights by the hub's names: faint image tokens, under which eps matters, and biases that are felt."""
    state = checks.clip_state(shapes, seed)
    for name, tensor in state.items():
        if name == "vision_model.embeddings.position_embedding.weight":
            tensor.mul_(encoder_checks.FAINT)
        elif name == "vision_model.head.probe":
            tensor.mul_(tensor.shape[-1] ** 0.5)
        elif name.endswith(("_proj.bias", "in_proj_bias", "fc1.bias")):
            tensor.mul_(20)
        elif name == "logit_bias":
            tensor.sub_(12)
    return state


def library_model(widths: tuple[int, int, int], patch: int, size: int, vocabulary: int, **vision: Any) -> Any:
    """Two layers of the hub's class, whose defaults are those of the base model."""
    from transformers import SiglipConfig, SiglipModel

    names = ("hidden_size", "num_attention_heads", "intermediate_size")
    common = {**dict(zip(names, widths, strict=True)), "num_hidden_layers": 2}
    image = {**common, "patch_size": patch, "image_size": size, **vision}
    text = {**common, "vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 1}
    return SiglipModel(SiglipConfig(vision_config=image, text_config=text)).eval()


@pytest.fixture
def two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"base": BASE, "so400m": SO400M}
    monkeypatch.setattr(siglip, "SIZES", {name: (width, 2, *rest) for name, (width, *rest) in sizes.items()})
    for cls in (SigLIPEncoder, SigLIP2Encoder):  # most of the weights lie in rows of words that no test uses
        monkeypatch.setattr(cls, "vocabulary", 2000)


@pytest.mark.usefixtures("two_layers")
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_embeddings_and_logits_are_those_of_the_library_class_that_the_hub_names(name: str) -> None:
    cls, variant, widths, patch, size = MODELS[name]
    reference = library_model(widths, patch, size, 2000)
    state = siglip_state(checks.shapes_of(reference.state_dict()), 51)
    reference.load_state_dict(state)
    encoder = cls(variant, "random")
    load_checked(encoder, rename_siglip(state), origin="hub")
    image, numbers = encoder_checks.images(size), encoder.token_numbers(checks.TEXTS)
    images, texts = encoder.encode_image(image), encoder.encode_text(checks.TEXTS)
    expected = reference(input_ids=numbers, pixel_values=image)
    pooled = expected.vision_model_output.pooler_output
    torch.testing.assert_close(images["features"], pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(images["zero_shot"], expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts["zero_shot"], expected.text_embeds, atol=1e-5, rtol=0)
    scale = state["logit_scale"].exp().item()
    logits = encoder.similarity(images, texts)
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-5 * scale, rtol=0)
    assert [term.shape for term in encoder.logit_terms()] == [(), ()]
    # What the probability of the sigmoid is, by the paper's formula.
    cosine = images["zero_shot"][0] @ texts["zero_shot"][1]
    torch.testing.assert_close(logits[0, 1], state["logit_scale"][0].exp() * cosine + state["logit_bias"][0])


@pytest.mark.usefixtures("two_layers")
@pytest.mark.parametrize("trap", [{"hidden_act": "gelu"}, {"layer_norm_eps": 1e-5}])
@torch.no_grad()
def test_the_comparison_notices_what_names_and_shapes_do_not(trap: dict[str, Any]) -> None:
    reference = library_model(BASE, 16, 224, 2000, **trap)
    state = siglip_state(checks.shapes_of(reference.state_dict()), 51)
    reference.load_state_dict(state)
    encoder = SigLIPEncoder("base-patch16-224", "random")
    load_checked(encoder, rename_siglip(state), origin="hub")
    image = encoder_checks.images(224)
    assert (encoder(image) - reference.get_image_features(image).pooler_output).abs().max() > 5e-5


class TestNames:
    @pytest.mark.parametrize(
        ("name", "count", "cls", "variant"),
        [
            ("siglip_base_patch16_224_hf", 408, SigLIPEncoder, "base-patch16-224"),
            ("siglip2_base_patch16_224_hf", 408, SigLIP2Encoder, "base-patch16-224"),
            ("siglip2_so400m_patch14_384_hf", 888, SigLIP2Encoder, "so400m-patch14-384"),
            ("medsiglip_448_hf", 888, MedSigLIPEncoder, "so400m-patch14-448"),
        ],
    )
    def test_every_published_tensor_is_taken(
        self, name: str, count: int, cls: type[SigLIPEncoder], variant: str
    ) -> None:
        keys = read_keys(name)
        assert len(keys) == count
        with torch.device("meta"):
            encoder = cls(variant, "random")
        load_checked(encoder, rename_siglip(keys), origin=name)
        assert sum(tensor.numel() for tensor in encoder.parameters()) == sum(tensor.numel() for tensor in keys.values())

    @pytest.mark.parametrize("cls", [SigLIPEncoder, SigLIP2Encoder])
    def test_networks_have_the_shapes_of_timm_and_open_clip(self, cls: type[SigLIPEncoder]) -> None:
        """One variant of each size and patch whole; of all variants what differs between them."""
        whole = {variant.rpartition("-")[0]: variant for variant in cls.variants}.values()
        for variant in cls.variants:
            config = open_clip_config(cls, variant)
            text = siglip.geometry(variant)[1]
            assert (text["hidden_size"], text["num_hidden_layers"]) == (config["width"], config["layers"])
            assert text["num_attention_heads"] == config["heads"]
            assert text["intermediate_size"] == int(config["width"] * config.get("mlp_ratio", 4))
            assert cls.contexts.get(variant, 64) == config["context_length"]
            assert cls.vocabulary == config["vocab_size"]
            if variant in whole:
                with torch.device("meta"):
                    own = cls(variant, "random").visual
                    reference = timm.create_model(config["timm"], num_classes=0)
                assert checks.shapes_of(own.state_dict()) == checks.shapes_of(reference.state_dict())
                assert own.blocks[0].attn.num_heads == reference.blocks[0].attn.num_heads
                assert own.attn_pool.num_heads == reference.attn_pool.num_heads


def open_clip_config(cls: type[SigLIPEncoder], variant: str) -> dict[str, Any]:
    """open_clip's settings of the text tower, and timm's name of the image tower.

    Of 384 pixels in patches of 14 both read the 378 that fill whole patches.
    """
    size, patch, pixels = variant.replace("patch", "").split("-")
    pixels = "378" if variant == "so400m-patch14-384" else pixels
    name = f"ViT-{SIZES[size]}-{patch}-SigLIP{'2' if cls is SigLIP2Encoder else ''}"
    config = open_clip.get_model_config(name if pixels == "224" else f"{name}-{pixels}")
    assert config["vision_cfg"]["image_size"] == int(pixels)
    return {**config["text_cfg"], "timm": config["vision_cfg"]["timm_model_name"]}


class TestText:
    def test_prompts_are_lower_cased_and_padded_to_64_on_the_right(self) -> None:
        encoder = SigLIPEncoder("base-patch16-224", "tiny")
        numbers = encoder.token_numbers(["An Effusion", "an effusion", "x"])
        assert numbers.shape == (3, 64)
        assert torch.equal(numbers[0], numbers[1])
        assert numbers[0, 2:].tolist() == [1] * 62  # the end and the padding are one token
        assert SigLIP2Encoder("base-patch16-224", "tiny").token_numbers(["an effusion"])[0, 2:].tolist() == [
            1,
            *[0] * 61,
        ]

    @torch.no_grad()
    def test_the_padding_is_read(self) -> None:
        """The trap: a text padded to less has another embedding."""
        encoder = SigLIPEncoder("base-patch16-224", "tiny")
        numbers = encoder.token_numbers(["an effusion"])
        whole, cut = (encoder.text(input_ids=ids).pooler_output for ids in (numbers, numbers[:, :3]))
        assert (whole - cut).abs().max() > 1e-3

    def test_prompts_beyond_the_context_are_counted(self) -> None:
        with pytest.warns(UserWarning, match="1 of 2 prompts are longer than SigLIP's 64 tokens"):
            assert SigLIPEncoder("base-patch16-224", "tiny").token_numbers(["a", "word " * 80])[1, -1] == 1
        with pytest.warns(UserWarning, match="1 of 1 prompts are longer than SigLIP's 16 tokens"):
            assert SigLIPEncoder("so400m-patch14-224", "tiny").token_numbers(["word " * 20]).shape == (1, 16)


class TestFiles:
    @pytest.fixture(autouse=True)
    def folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """A small network for every file, no network connection, and a home of its own."""
        monkeypatch.setattr(siglip, "SIZES", {"base": (48, 2, 2, 96)})
        for cls in (SigLIPEncoder, SigLIP2Encoder):
            monkeypatch.setattr(cls, "vocabulary", 512)
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
        folder = tmp_path / "weights"
        folder.mkdir()
        return folder

    @pytest.fixture
    def state(self) -> dict[str, Tensor]:
        """The hub's names of that network."""
        return siglip_state(checks.shapes_of(library_model((48, 2, 96), 16, 224, 512).state_dict()), 4)

    def test_the_hubs_file_is_found_and_cut_and_joined(self, state: dict[str, Tensor], folder: Path) -> None:
        save_file(
            {name: tensor.half() for name, tensor in state.items()}, folder / "siglip-base-patch16-224.safetensors"
        )
        encoder = SigLIPEncoder()
        assert {tensor.dtype for tensor in encoder.parameters()} == {torch.float32}
        query, key, value = encoder.visual.blocks[1].attn.qkv.weight.chunk(3)
        for part, third in zip("qkv", (query, key, value), strict=True):
            expected = state[f"vision_model.encoder.layers.1.self_attn.{part}_proj.weight"]
            torch.testing.assert_close(third, expected.half().float())
        pooling = state["vision_model.head.attention.in_proj_weight"].half().float()
        torch.testing.assert_close(encoder.visual.attn_pool.q.weight, pooling[:48])
        torch.testing.assert_close(encoder.visual.attn_pool.kv.weight, pooling[48:])

    def test_a_missing_third_and_a_missing_tower_are_told(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        images = {name: tensor for name, tensor in state.items() if name.startswith("vision_model.")}
        message = r"missing: .*logit_scale.*and \d+ more"
        encoder_checks.check_refusals(SigLIPEncoder, "base-patch16-224", tmp_path / "file.bin", images, message)
        del state["vision_model.encoder.layers.0.self_attn.k_proj.bias"]
        message = r"0 missing, 0 unexpected, 1 of another shape.*blocks.0.attn.qkv.bias is \(96,\), not \(144,\)"
        encoder_checks.check_refusals(SigLIPEncoder, "base-patch16-224", tmp_path / "file.bin", state, message)

    @pytest.mark.parametrize("cls", [SigLIPEncoder, SigLIP2Encoder])
    def test_no_file(self, cls: type[SigLIPEncoder]) -> None:
        name = cls.source("base-patch16-224").names[0]
        with pytest.raises(WeightsError, match=rf"put {name} into .*huggingface.co/google/siglip2?-base-patch16-224"):
            cls()

    def test_sentencepiece_is_asked_for(
        self, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.save(state, tmp_path / "file.bin")
        encoder = SigLIPEncoder("base-patch16-224", tmp_path / "file.bin")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(WeightsError, match="pip install sentencepiece protobuf"):
            encoder.encode_text(["pneumonia"])

    def test_siglip_2s_tokenizer_is_gemmas_in_lower_case(
        self, state: dict[str, Tensor], tmp_path: Path, folder: Path
    ) -> None:
        torch.save(state, tmp_path / "file.bin")
        encoder = SigLIP2Encoder("base-patch16-224", tmp_path / "file.bin")
        with pytest.raises(WeightsError, match=r"the tokenizer is not here.*siglip2.*google/siglip2-base"):
            encoder.encode_text(["pneumonia"])
        write_gemma_tokenizer(folder / "siglip2", end=True)
        numbers = encoder.token_numbers(["A chest", "a chest", "a"])
        words = ["a", "\u2581", "che", "s", "t", "<eos>"]
        assert numbers[0, :7].tolist() == [*(VOCABULARY.index(word) for word in words), 0]
        assert torch.equal(numbers[0], numbers[1])
        assert numbers[2].tolist() == [VOCABULARY.index("a"), 1, *[0] * 62]

    def test_another_models_tokenizer_is_refused(self, state: dict[str, Tensor], tmp_path: Path, folder: Path) -> None:
        torch.save(state, tmp_path / "file.bin")
        write_gemma_tokenizer(folder / "siglip2", end=False)
        with pytest.raises(WeightsError, match=r"siglip2 is not SigLIP 2's: it must lower-case, end with token 1"):
            SigLIP2Encoder("base-patch16-224", tmp_path / "file.bin").encode_text(["pneumonia"])


VOCABULARY = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz", "\u2581", "A", "ch", "che"]


def write_gemma_tokenizer(folder: Path, *, end: bool) -> None:
    """Files as of the hub's repository, which name Gemma's class, with a few words."""
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    merges = [("c", "h"), ("ch", "e")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
        )
    tokenizer.add_special_tokens(VOCABULARY[:5])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


ROWS = [
    ("siglip", SigLIPEncoder, "base-patch16-224", 12),
    ("siglip2", SigLIP2Encoder, "so400m-patch16-256", 27),
    ("medsiglip", MedSigLIPEncoder, "so400m-patch14-448", 27),
]


@pytest.mark.parametrize(("fm", "cls", "variant", "depth"), ROWS)
class TestRows:
    def test_interface(self, fm: str, cls: type[SigLIPEncoder], variant: str, depth: int) -> None:
        checks.check_interface(cls, fm, variant, parameters=2.5e6)

    def test_variants(self, fm: str, cls: type[SigLIPEncoder], variant: str, depth: int) -> None:
        encoder_checks.check_variants(cls, fm)

    def test_zero_shot(self, fm: str, cls: type[SigLIPEncoder], variant: str, depth: int) -> None:
        checks.check_zero_shot(cls, variant)

    def test_lora(self, fm: str, cls: type[SigLIPEncoder], variant: str, depth: int) -> None:
        checks.check_lora(cls, fm, variant, depth=depth)
