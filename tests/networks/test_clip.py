"""CLIP against open_clip's own model and transformers' CLIPModel on equal random weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import WeightsError
from fairmedfm_monai.networks.encoders import clip
from fairmedfm_monai.networks.encoders.clip import CLIPEncoder
from fairmedfm_monai.networks.spec import InputSpec

TEXTS = ["a chest X-ray of a healthy patient", "effusion", "Pneumonia, right lower lobe."]
CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny() -> CLIPEncoder:
    return CLIPEncoder("ViT-B-32-quickgelu", "tiny")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> open_clip.CLIP:
    """open_clip's plain CLIP of a small geometry, and the same geometry under every name of the encoder."""
    small_input = InputSpec(size=32, mean=[0, 0, 0], std=[1, 1, 1])
    monkeypatch.setattr(clip, "clip_input_spec", lambda name, tag: small_input)
    monkeypatch.setattr(clip, "model_config", lambda name: {**CONFIG, "quick_gelu": name.endswith("-quickgelu")})
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def saved(model: torch.nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


class TestAgainstOpenClip:
    def test_both_towers_and_the_logits_agree(self, small: open_clip.CLIP, tmp_path: Path) -> None:
        encoder = CLIPEncoder("ViT-B-32-quickgelu", saved(small, tmp_path / "clip.pt"))
        pixels = torch.randn(3, 3, 32, 32)
        tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
        with torch.no_grad():
            encoded, text = encoder.encode_image(pixels), encoder.encode_text(TEXTS)
            torch.testing.assert_close(encoded["features"], small.encode_image(pixels), atol=1e-6, rtol=0)
            torch.testing.assert_close(encoded["zero_shot"], small.encode_image(pixels, normalize=True))
            torch.testing.assert_close(text["zero_shot"], small.encode_text(tokens, normalize=True))
            expected = small.get_logits(pixels, tokens)[0]
            torch.testing.assert_close(encoder.similarity(encoded, text), expected, atol=1e-5, rtol=1e-5)

    def test_openais_archive_is_read_without_running_it(self, small: open_clip.CLIP, tmp_path: Path) -> None:
        small.register_buffer("input_resolution", torch.tensor(32))
        torch.jit.script(small).save(tmp_path / "clip.pt")
        encoder = CLIPEncoder("ViT-B-32-quickgelu", tmp_path / "clip.pt")
        pixels = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(encoder(pixels), small.encode_image(pixels))


class TestAgainstTransformers:
    def test_image_and_text_embeddings_agree(self, small: open_clip.CLIP, tmp_path: Path) -> None:
        from transformers import CLIPConfig, CLIPModel

        config = CLIPConfig(
            projection_dim=24,
            vision_config={
                "image_size": 32,
                "patch_size": 8,
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
            text_config={
                "vocab_size": 49408,
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "eos_token_id": 49407,
            },
        )
        reference = CLIPModel(config).eval()
        reference.load_state_dict(to_transformers(small.state_dict()), strict=True)
        encoder = CLIPEncoder("ViT-B-32-quickgelu", saved(small, tmp_path / "clip.pt"))
        pixels = torch.randn(3, 3, 32, 32)
        tokens = open_clip.get_tokenizer("ViT-B-32")(TEXTS)
        with torch.no_grad():
            expected = reference(input_ids=tokens, pixel_values=pixels)
            images, texts = encoder.encode_image(pixels), encoder.encode_text(TEXTS)
        torch.testing.assert_close(images["zero_shot"], expected.image_embeds, atol=3e-6, rtol=0)
        torch.testing.assert_close(texts["zero_shot"], expected.text_embeds, atol=3e-6, rtol=0)


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names to transformers': qkv cut in three, the projections transposed."""
    words = {
        "visual.class_embedding": "visual.embeddings.class_embedding",
        "visual.conv1": "visual.embeddings.patch_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding": "embeddings.token_embedding",
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "ln_final": "final_layer_norm",
        "transformer.resblocks": "encoder.layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.": "self_attn.",
    }
    result = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
    }
    for original, tensor in state.items():
        if original in {"logit_scale", "visual.proj", "text_projection"} or original == "attn_mask":
            continue
        name = original
        for old, new in words.items():
            name = name.replace(old, new)
        name = name.replace("visual.", "vision_model.", 1) if name.startswith("visual.") else f"text_model.{name}"
        if "in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                result[name.replace("in_proj_", f"{part}_proj.")] = third
        else:
            result[name] = tensor
    return result


class TestQuickGelu:
    def test_the_trap_is_real(self, small: open_clip.CLIP, tmp_path: Path) -> None:
        """The same file fits both activations and gives other features: nothing but the name tells them apart."""
        path = saved(small, tmp_path / "clip.pt")
        pixels = torch.randn(2, 3, 32, 32)
        quick, plain = CLIPEncoder("ViT-B-32-quickgelu", path), CLIPEncoder("ViT-B-32", path)
        torch.testing.assert_close(quick(pixels), small.encode_image(pixels))
        assert (quick(pixels) - plain(pixels)).abs().max() > 1e-3

    def test_openais_archive_is_refused_under_a_plain_name(self, small: open_clip.CLIP, tmp_path: Path) -> None:
        torch.jit.script(small).save(tmp_path / "clip.pt")
        with pytest.raises(WeightsError, match="set `variant` to ViT-B-32-quickgelu"):
            CLIPEncoder("ViT-B-32", tmp_path / "clip.pt")

    def test_a_tag_of_the_other_activation_is_refused_and_the_variant_named(self) -> None:
        with pytest.raises(ValueError, match="those of `variant` ViT-B-32-quickgelu"):
            clip.clip_source("ViT-B-32", "openai")
        with pytest.raises(ValueError, match="those of `variant` RN50-quickgelu"):
            clip.clip_source("RN50")
        with pytest.raises(ValueError, match="those of `variant` ViT-B-32 "):
            clip.clip_source("ViT-B-32-quickgelu", "laion2b_s34b_b79k")

    def test_openais_own_names_mean_quickgelu(self) -> None:
        assert clip.canonical_name("ViT-L/14@336px") == "ViT-L-14-336-quickgelu"
        assert clip.canonical_name("ViT-B/16") == "ViT-B-16-quickgelu"


class TestVariants:
    def test_every_openai_model_is_there_with_its_published_digest(self) -> None:
        digests = {
            "ViT-B-32": "40d36571",
            "ViT-B-16": "5806e77c",
            "ViT-L-14": "b8cca3fd",
            "ViT-L-14-336": "3035c92b",
            "RN50": "afeb0e10",
            "RN101": "8fa8567b",
            "RN50x4": "7e526bd1",
            "RN50x16": "52378b40",
            "RN50x64": "be1cfb55",
        }
        for name, start in digests.items():
            source = clip.clip_source(f"{name}-quickgelu")
            assert source.names[0] == {"ViT-L-14-336": "ViT-L-14-336px.pt"}.get(name, f"{name}.pt")
            assert source.sha256[source.names[0]].startswith(start)

    @pytest.mark.parametrize(
        "variant", ["ViT-B-32", "ViT-L-14-336-quickgelu", "ViT-bigG-14", "RN50-quickgelu", "RN50x4-quickgelu"]
    )
    def test_tiny_keeps_the_input_of_the_variant(self, variant: str) -> None:
        encoder = CLIPEncoder(variant, "tiny")
        size = {"ViT-L-14-336-quickgelu": 336, "RN50x4-quickgelu": 288}.get(variant, 224)
        assert (encoder.input_spec.size, encoder.input_spec.channels) == (size, 3)
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, encoder.feature_dim)
        assert sum(parameter.numel() for parameter in encoder.parameters()) < 6e6

    def test_the_input_is_known_without_building_the_network(self) -> None:
        for variant in ("ViT-B/32", "ViT-L/14@336px", "RN50x4-quickgelu"):
            assert clip.clip_input_spec(variant) == CLIPEncoder(variant, "tiny").input_spec

    def test_an_unknown_variant_lists_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="ViT-B-32-quickgelu"):
            CLIPEncoder("ViT-B-33")

    def test_seeds_decide_the_weights_and_leave_torchs_state_alone(self, image: Tensor) -> None:
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        first, second, other = (CLIPEncoder("ViT-B-32", "tiny", seed=seed)(image) for seed in (0, 0, 1))
        assert torch.equal(torch.rand(1), expected)
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(1, 1, 224, 224), (3, 224, 224), (1, 3, 256, 224)])
def test_images_of_another_shape_are_refused(tiny: CLIPEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`image` must be \(B, 3, 224, 224\)"):
        tiny(torch.zeros(shape))


class TestText:
    def test_prompts_that_are_cut_are_counted(self, tiny: CLIPEncoder) -> None:
        with pytest.warns(UserWarning, match="1 of 3 prompts are longer than CLIP's 77 tokens"):
            tiny.encode_text(["short", "the " * 76, "the " * 75])

    def test_a_prompt_that_just_fits_is_not_reported(self, tiny: CLIPEncoder) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tiny.encode_text(["the " * 75])

    def test_a_released_text_tower_says_so(self) -> None:
        encoder = CLIPEncoder("ViT-B-32", "tiny")
        encoder.release_text()
        assert not any(name.startswith("text") for name in encoder.state_dict())
        with pytest.raises(RuntimeError, match="build the encoder again"):
            encoder.encode_text(["a"])


def test_the_logit_scale_is_that_of_the_weights(tiny: CLIPEncoder, image: Tensor) -> None:
    scale, bias = tiny.logit_terms()
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert bias.item() == 0


def test_the_input_statistics_are_those_of_openai(tiny: CLIPEncoder) -> None:
    assert tiny.input_spec.mean == (0.48145466, 0.4578275, 0.40821073)
    assert tiny.input_spec.std == (0.26862954, 0.26130258, 0.27577711)
