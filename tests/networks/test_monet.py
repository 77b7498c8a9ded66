"""MONET: the authors' code and transformers' CLIPModel on equal seeded weights, two layers in each tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairmedfm_monai.networks.checkpoint import load_checked
from fairmedfm_monai.networks.encoders import clip_towers
from fairmedfm_monai.networks.encoders.clip_towers import rename_fine_tuned
from fairmedfm_monai.networks.encoders.monet import MONETEncoder
from tests.networks import clip_checks as checks
from tests.networks import encoder_checks, parity
from tests.networks.test_keys import read_keys


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> MONETEncoder:
    """Full width, two layers in each tower, random weights."""
    real = clip_towers.geometry_config

    def shallow(name: str) -> dict[str, Any]:
        config = real(name)
        return {
            **config,
            "vision_cfg": {**config["vision_cfg"], "layers": 2},
            "text_cfg": {**config["text_cfg"], "layers": 2},
        }

    monkeypatch.setattr(clip_towers, "geometry_config", shallow)
    return MONETEncoder("ViT-L-14", "random")


def first_layers(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a key list without those of the layers from the third on."""
    keys = checks.shapes_of(read_keys(name))
    dropped = tuple(f".{number}." for number in range(2, 24))
    return {key: shape for key, shape in keys.items() if not any(part in key for part in dropped)}


@torch.no_grad()
def test_parity_with_the_authors_code(encoder: MONETEncoder) -> None:
    record = parity.read("monet")
    assert record["texts"] == list(checks.TEXTS)
    seed = record["weight_seed"]
    load_checked(encoder, rename_fine_tuned(checks.clip_state(first_layers("clip_vitl14"), seed)), origin="authors")
    image = encoder.encode_image(parity.seeded_input((2, 3, 224, 224), seed, low=-2, high=2))
    found = {
        "ViT-L-14 features": image["features"],
        "ViT-L-14 text": encoder.text(encoder.token_numbers(checks.TEXTS)),
        "ViT-L-14 logits": encoder.similarity(image, encoder.encode_text(checks.TEXTS)),
    }
    parity.compare(record, found, tolerance=1e-4)


@torch.no_grad()
def test_both_embeddings_are_those_of_the_library_class_that_the_hub_names(encoder: MONETEncoder) -> None:
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 2, "num_attention_heads": 12}
    config = CLIPConfig(projection_dim=768, vision_config=vision, text_config={**text, "eos_token_id": 49407})
    state = checks.clip_state(first_layers("monet_hf"), 22)
    reference = CLIPModel(config).eval()
    reference.load_state_dict(state)
    load_checked(encoder, rename_fine_tuned(state), origin="hub")
    image = encoder_checks.images(224)
    expected = reference(input_ids=encoder.token_numbers(checks.TEXTS), pixel_values=image)
    images, texts = encoder.encode_image(image), encoder.encode_text(checks.TEXTS)
    torch.testing.assert_close(images["zero_shot"], expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts["zero_shot"], expected.text_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "count"), [("clip_vitl14", 446), ("monet_hf", 590)])
def test_every_tensor_of_both_published_forms_is_taken(name: str, count: int) -> None:
    keys = read_keys(name)
    assert len(keys) == count
    with torch.device("meta"):
        encoder = MONETEncoder("ViT-L-14", "random")
        load_checked(encoder, rename_fine_tuned(keys), origin=name)
    assert len(encoder.state_dict()) == 446


def test_images_are_normalised_with_imagenets_statistics() -> None:
    spec = MONETEncoder("ViT-L-14", "tiny").input_spec
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    names = ("class_embedding", "positional_embedding", "proj", "ln_final.weight")
    shapes = checks.shapes_of(read_keys("clip_vitb32"))
    state = {name: torch.zeros(shape) for name, shape in shapes.items() if name.endswith(names)}
    message = r"another model than MONETEncoder: 0 of 446 .*visual.class_embedding is \(768,\), not \(1024,\)"
    encoder_checks.check_refusals(on_meta, "ViT-L-14", tmp_path / "file.pt", state, message)


def on_meta(variant: str, weights: str | Path) -> MONETEncoder:
    """A refusal needs no values."""
    with torch.device("meta"):
        return MONETEncoder(variant, weights)


def test_interface() -> None:
    checks.check_interface(MONETEncoder, "monet", "ViT-L-14")


def test_variants() -> None:
    encoder_checks.check_variants(MONETEncoder, "monet")


def test_zero_shot() -> None:
    checks.check_zero_shot(MONETEncoder, "ViT-L-14")


def test_lora() -> None:
    checks.check_lora(MONETEncoder, "monet", "ViT-L-14", depth=24)
