"""What every model with CLIP's two towers must pass, on ``tiny`` weights, and seeded weights that make parts matter."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import input_spec, lora_targets
from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from fairmedfm_monai.usages.zero_shot import ZeroShotClassifier
from tests.networks import parity
from tests.networks.encoder_checks import images

Builder = Callable[..., VisionLanguageEncoder]
# Capitals, accents, entities, odd spaces and a hyphen: what tokenizers differ in.
TEXTS = ("a chest X-ray of a healthy patient", "Effusion;  café-au-lait &amp; naevus, 3 mm.", "x")


def clip_state(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Tensor]:
    """Seeded weights of CLIP by published names; embeddings and position tables of order 1, variances around 1.

    With the plain rule the tables would be so small that a wrong one changed next to nothing.
    """
    state = parity.seeded_state(shapes, seed)
    for name, tensor in state.items():
        if re.search(r"class_embedding|(positional|position|token)_embedding(\.weight)?$", name):
            tensor.mul_(50 if tensor.ndim == 1 else math.sqrt(tensor.shape[-1]))
        elif name.endswith("running_var"):
            tensor.add_(1)
        elif name == "logit_scale":
            tensor.add_(3)
    return state


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@torch.no_grad()
def check_interface(build: Builder, fm: str, variant: str, *, parameters: float = 6e6) -> None:
    """Shapes, unit length, the catalog's input, batch against single, seeds, refused images, TorchScript."""
    encoder = build(variant, "tiny")
    spec, row = encoder.input_spec, input_spec(fm, variant)
    assert (row["size"], row["channels"]) == (spec.size, spec.channels)
    assert (tuple(row["mean"]), tuple(row["std"])) == (spec.mean, spec.std)
    # Of other brightness each: the last normalisations of an untrained residual network let little else through.
    batch = images(spec.size, count=3) + torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    encoded = encoder.encode_image(batch)
    assert list(encoded) == ["features", "zero_shot"]
    features = encoded["features"]
    assert features.shape == (3, encoder.feature_dim)
    assert features.isfinite().all()
    torch.testing.assert_close(encoded["zero_shot"], features / features.norm(dim=1, keepdim=True))
    single = torch.cat([encoder(image[None]) for image in batch])
    torch.testing.assert_close(single, features, atol=1e-5, rtol=0)
    assert (features[0] - features[1]).abs().max() > 1e-4
    assert torch.equal(build(variant, "tiny", seed=0)(batch), features)
    assert not torch.equal(build(variant, "tiny", seed=1)(batch), features)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < parameters
    check_texts(encoder, encoded)
    with pytest.raises(ValueError, match=rf"`image` must be \(B, 3, {spec.size}, {spec.size}\)"):
        encoder(torch.zeros(1, 3, spec.size + 14, spec.size))
    encoder.release_text()
    assert not any(name.startswith("text") for name in encoder.state_dict())
    assert torch.equal(torch.jit.script(encoder)(batch), features)
    with pytest.raises(RuntimeError, match="build the encoder again"):
        encoder.encode_text(TEXTS)


def check_texts(encoder: VisionLanguageEncoder, encoded: dict[str, Tensor]) -> None:
    """Texts together give what they give alone, of unit length, and classes come out of the logits."""
    texts = encoder.encode_text(TEXTS)
    assert texts["zero_shot"].shape == (3, encoded["zero_shot"].shape[1])
    torch.testing.assert_close(texts["zero_shot"].norm(dim=1), torch.ones(3))
    alone = torch.cat([encoder.encode_text([text])["zero_shot"] for text in TEXTS])
    torch.testing.assert_close(texts["zero_shot"], alone, atol=1e-5, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 1e-4
    scale, bias = encoder.logit_terms()
    cosines = encoded["zero_shot"] @ alone.T
    torch.testing.assert_close(encoder.similarity(encoded, texts), scale * cosines + bias, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def check_zero_shot(build: Builder, variant: str) -> None:
    """The classifier releases the text tower and gives the logits of the mean prompts."""
    encoder = build(variant, "tiny")
    image = images(encoder.input_spec.size)
    expected = encoder.similarity(encoder.encode_image(image), encoder.encode_text(["healthy", "ill"]))
    model = ZeroShotClassifier(encoder, {"no": ["healthy"], "yes": ["ill"]})
    torch.testing.assert_close(model(image), expected, atol=1e-4, rtol=1e-4)
    assert encoder.text is None


def check_lora(build: Builder, fm: str, variant: str, *, depth: int) -> None:
    """The catalog's targets are found in every image block, and each adapter gets a gradient that is not zero.

    Args:
        build: the encoder's class.
        fm: its row.
        variant: of it.
        depth: blocks of the image tower in full geometry.
    """
    targets = lora_targets(fm, variant)
    with torch.device("meta"):
        whole = build(variant, "random")
    whole.release_text()
    names = [name for name, _ in whole.named_modules() if name.endswith(tuple(f".{target}" for target in targets))]
    assert len(names) == depth * len(targets)
    assert all(name.startswith("visual.") for name in names)
    encoder, plain = build(variant, "tiny"), LinearProbe(build(variant, "tiny"), 2)
    size = encoder.input_spec.size
    model = lora.add_lora(LinearProbe(encoder, 2), rank=2, alpha=4, dropout=0.0, target_modules=targets)
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * 2 * len(targets)  # A and B in both blocks
    with torch.no_grad():
        for number, parameter in enumerate(adapters.values()):
            parameter.copy_(parity.seeded_tensor(f"lora{number}", parameter.shape, 0))
    trained = sum(map(torch.Tensor.numel, adapters.values())) + 2 * (encoder.feature_dim + 1)
    assert lora.check_gradients(model, (2, 3, size, size)) == trained
    image = images(size)
    model(image)[:, 0].sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapters.values())
    with torch.no_grad():
        assert (model.eval()(image) - plain(image)).abs().max() > 1e-4
        plain.load_state_dict(lora.MergedState(model).state_dict())
        torch.testing.assert_close(plain(image), model(image), atol=1e-4, rtol=1e-4)


def saved(state: Mapping[str, Tensor], path: Path) -> Path:
    torch.save(dict(state), path)
    return path
