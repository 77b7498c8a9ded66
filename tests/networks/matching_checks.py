"""What encoders with a matching head beside the contrastive one must pass, on ``tiny`` weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fairmedfm_monai.catalog import input_spec
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier
from tests.networks.clip_checks import TEXTS
from tests.networks.encoder_checks import images

Builder = Callable[..., VisionLanguageEncoder]
PROMPTS = [TEXTS[0], "healthy", "an effusion"]
CLASSES = {"no": PROMPTS[:2], "yes": PROMPTS[2:]}


@torch.no_grad()
def check_interface(build: Builder, fm: str, variant: str) -> None:
    """Shapes, unit length, the catalog's input, batch against single, seeds, refused images and heads."""
    encoder = build(variant, "tiny")
    spec, row = encoder.input_spec, input_spec(fm, variant)
    assert (row["size"], row["channels"]) == (spec.size, spec.channels)
    assert (tuple(row["mean"]), tuple(row["std"])) == (spec.mean, spec.std)
    batch = images(spec.size, count=3, amplitude=2)
    encoded = encoder.encode_image(batch)
    features, embedding = encoded["features"], encoded["zero_shot"]
    assert features.shape == (3, encoder.feature_dim)
    assert embedding.ndim == 2
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(3))
    single = [encoder.encode_image(image[None]) for image in batch]
    for name, together in encoded.items():
        torch.testing.assert_close(torch.cat([own[name] for own in single]), together, atol=1e-5, rtol=0)
    assert (features[0] - features[1]).abs().max() > 1e-4
    assert torch.equal(build(variant, "tiny", seed=0)(batch), features)
    assert not torch.equal(build(variant, "tiny", seed=1)(batch), features)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1e6
    assert torch.equal(build(variant, "tiny", head="matching")(batch), features)
    with pytest.raises(ValueError, match="`head` must be one of contrastive, matching, but got 'itm'"):
        build(variant, "tiny", head="itm")
    with pytest.raises(ValueError, match=rf"`image` must be \(B, 3, {spec.size}, {spec.size}\)"):
        encoder(torch.zeros(1, 3, spec.size + 14, spec.size))
    encoder.release_text()
    assert not any(name.startswith(("text", "itm")) for name in encoder.state_dict())
    assert torch.equal(encoder(batch), features)
    with pytest.raises(RuntimeError, match="build the encoder again"):
        encoder.encode_text(TEXTS)


@torch.no_grad()
def check_texts(build: Builder, variant: str) -> None:
    """Texts together give what they give alone, of unit length."""
    encoder = build(variant, "tiny")
    texts = encoder.encode_text(TEXTS)["zero_shot"]
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    alone = torch.cat([encoder.encode_text([text])["zero_shot"] for text in TEXTS])
    torch.testing.assert_close(texts, alone, atol=1e-5, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 1e-4


@torch.no_grad()
def check_matching_classifier(build: Builder, variant: str, *, limit: int) -> None:
    """Classification by the matching head: means over prompts, long prompts, checkpoints, nothing that trains."""
    encoder = build(variant, "tiny", head="matching")
    image = images(encoder.input_spec.size, amplitude=2)
    alone = [ZeroShotClassifier(build(variant, "tiny", head="matching"), {"one": [text]}) for text in PROMPTS]
    odds = torch.cat([one(image) for one in alone], dim=1)
    assert (odds[:, 0] - odds[:, 1]).abs().max() > 1e-6
    model = ZeroShotClassifier(encoder, CLASSES).train()
    logits = model(image)
    torch.testing.assert_close(logits, torch.stack([odds[:, :2].mean(dim=1), odds[:, 2]], dim=1))
    torch.testing.assert_close(torch.cat([model(own[None]) for own in image]), logits, atol=1e-5, rtol=0)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    independent = ZeroShotClassifier(build(variant, "tiny", head="matching"), CLASSES, background=["an image"])
    torch.testing.assert_close(independent(image), logits)
    other = {"no": ["a", "b c d e f g h"], "yes": ["word " * limit]}
    with pytest.warns(UserWarning, match=rf"1 of 3 prompts are longer than .*'s {limit} tokens"):
        rebuilt = ZeroShotClassifier(build(variant, "tiny", head="matching", seed=1), other)
    assert not torch.allclose(rebuilt(image), logits, atol=1e-6)
    rebuilt.load_state_dict(model.state_dict())
    torch.testing.assert_close(rebuilt(image), logits)
    with pytest.raises(ValueError, match="the `zero_shot` of the classifier's own encoder"):
        model.head(encoder.encode_image(image)["zero_shot"])
    volume = ZeroShotClassifier(build(variant, "tiny", head="matching"), CLASSES, pooling="max")
    slices = torch.stack([model(own) for own in (image, -image)], dim=1)
    torch.testing.assert_close(volume(torch.stack([image, -image], dim=-1)), slices.amax(dim=1), atol=1e-5, rtol=0)
