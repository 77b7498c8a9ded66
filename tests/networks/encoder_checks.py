"""What every image encoder must pass, on ``tiny`` weights, and seeded weights that make its parts matter."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairmedfm_monai.catalog import find_row, input_spec, lora_targets
from fairmedfm_monai.networks.checkpoint import WeightsError
from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import parity

Builder = Callable[..., ImageEncoder]
FAINT = 0.03


def vit_state(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Tensor]:
    """Seeded weights of a transformer for faint :func:`images`: tokens and tables as faint, layer scales around 1.

    With the plain rule tables and scales would be so small that a wrong one changed next to nothing. Faint tokens make
    the eps of normalisations matter.
    """
    state = parity.seeded_state(shapes, seed)
    for name, tensor in state.items():
        if re.search(r"pos_embed|position_embedding|_token(s?)$", name):
            tensor.mul_(FAINT * math.sqrt(math.prod(tensor.shape[1:])))
        elif re.search(r"patchifier\.norm|embeddings\.rms_norm", name):
            tensor.mul_(FAINT)
        elif re.search(r"gamma|lambda1", name):
            tensor.add_(1)
        elif name.endswith("bias_mask"):
            tensor.copy_(torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(tensor) // 3))
    return state


def first_blocks(shapes: Mapping[str, Tensor], depth: int) -> dict[str, tuple[int, ...]]:
    """Shapes without those of the encoder's blocks from number ``depth`` on."""
    number = re.compile(r"(?:^|\.)(?:blocks|layer|layers)\.(\d+)\.")
    found = {name: number.search(name) for name in shapes if not name.startswith("decoder")}
    kept = [name for name in shapes if not (found.get(name) and int(found[name][1]) >= depth)]  # type: ignore[index]
    return {name: tuple(shapes[name].shape) for name in kept}


def images(size: int, seed: int = 0, *, count: int = 2, amplitude: float = 2 * FAINT) -> Tensor:
    """Normalised images (count, 3, size, size)."""
    return parity.seeded_input((count, 3, size, size), seed, low=-amplitude, high=amplitude)


@torch.no_grad()
def check_interface(build: Builder, fm: str, variant: str) -> None:
    """Shapes, the catalog's input, batch against single images, seeds, and images of another shape."""
    encoder = build(variant, "tiny")
    spec = encoder.input_spec
    row = input_spec(fm, variant)
    assert (row["size"], row["channels"]) == (spec.size, spec.channels)
    assert (tuple(row["mean"]), tuple(row["std"])) == (spec.mean, spec.std)
    batch = images(spec.size, count=3, amplitude=2)
    encoded = encoder.encode_image(batch)
    assert list(encoded) == ["features"]
    features = encoded["features"]
    assert features.shape == (3, encoder.feature_dim)
    assert features.isfinite().all()
    single = torch.cat([encoder(image[None]) for image in batch])
    torch.testing.assert_close(single, features, atol=1e-5, rtol=0)
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert torch.equal(build(variant, "tiny", seed=0)(batch), features)
    assert not torch.equal(build(variant, "tiny", seed=1)(batch), features)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1e6
    with pytest.raises(ValueError, match=rf"`image` must be \(B, 3, {spec.size}, {spec.size}\)"):
        encoder(torch.zeros(1, 3, spec.size + 14, spec.size))


def check_variants(build: Builder, fm: str) -> None:
    """The catalog's variants, parameters and file names are those of the class; others are refused."""
    row = find_row(fm)
    for variant in row.variants:
        with torch.device("meta"):
            encoder = build(variant, "random")
        assert sum(parameter.numel() for parameter in encoder.parameters()) == row.parameters[variant]
        source = build.source(variant)  # type: ignore[attr-defined]
        assert row.weights["files"][variant]["file"] == source.names[0]
    with pytest.raises(ValueError, match=f"`variant` must be one of .*{row.default_variant}.* but got 'vit_x'"):
        build("vit_x", "tiny")


def check_lora(build: Builder, fm: str, variant: str) -> None:
    """The catalog's targets are found in every block, and each adapter gets a gradient that is not zero."""
    targets = lora_targets(fm, variant)
    with torch.device("meta"):
        names = [name for name, _ in build(variant, "random").named_modules()]
    depth = 1 + max(int(found[1]) for name in names if (found := re.search(r"(?:blocks|layer)\.(\d+)$", name)))
    assert sum(name.endswith(tuple(f".{target}" for target in targets)) for name in names) == depth * len(targets)
    encoder = build(variant, "tiny")
    shape = (2, 3, encoder.input_spec.size, encoder.input_spec.size)
    plain = LinearProbe(build(variant, "tiny"), 2)
    model = lora.add_lora(LinearProbe(encoder, 2), rank=2, alpha=4, dropout=0.0, target_modules=targets)
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * 2 * len(targets)  # A and B in both blocks
    with torch.no_grad():
        for number, parameter in enumerate(adapters.values()):
            parameter.copy_(parity.seeded_tensor(f"lora{number}", parameter.shape, 0))
    assert lora.check_gradients(model, shape) == sum(map(torch.Tensor.numel, adapters.values())) + 2 * (
        encoder.feature_dim + 1
    )
    image = images(encoder.input_spec.size, amplitude=2)
    model(image)[:, 0].sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapters.values())
    with torch.no_grad():
        assert (model.eval()(image) - plain(image)).abs().max() > 1e-4
        plain.load_state_dict(lora.MergedState(model).state_dict())
        torch.testing.assert_close(plain(image), model(image), atol=1e-4, rtol=1e-4)


def check_refusals(build: Builder, variant: str, path: Path, state: Mapping[str, Tensor], message: str) -> None:
    """A file with ``state`` is refused when the class reads it."""
    torch.save(dict(state), path)
    with pytest.raises(WeightsError, match=message):
        build(variant, path)
