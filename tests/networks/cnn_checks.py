"""What convolutional and volume encoders must pass, and seeded weights that keep their normalisations meaningful."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fairmedfm_monai.catalog import input_spec, lora_targets
from fairmedfm_monai.networks.encoders.volume import VolumeEncoder
from fairmedfm_monai.usages import lora
from fairmedfm_monai.usages.linear_probe import LinearProbe
from tests.networks import parity
from tests.networks.encoder_checks import Builder


def cnn_state(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Tensor]:
    """Seeded weights by published name; batch statistics differ from channel to channel, variances are positive."""
    state = parity.seeded_state(shapes, seed)
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.mul_(5)
        elif name.endswith("running_var"):
            tensor.mul_(10).add_(1).clamp_(min=0.3)
        elif name.endswith(("num_batches_tracked", "queue_ptr")):
            state[name] = torch.zeros(tensor.shape, dtype=torch.int64)
    return state


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_lora(build: Builder, fm: str, variant: str, *, found: int) -> None:
    """The catalog's targets mean ``found`` layers of the published network; every adapter of the tiny one trains."""
    targets = lora_targets(fm, variant)
    with torch.device("meta"):
        names = [name for name, _ in build(variant, "random").named_modules()]
    assert sum(name.endswith(tuple(f".{target}" for target in targets)) for name in names) == found
    encoder, plain = build(variant, "tiny"), LinearProbe(build(variant, "tiny"), 2)
    image = tiny_input(encoder, count=1)
    model = lora.add_lora(LinearProbe(encoder, 2), rank=2, alpha=4, dropout=0.0, target_modules=targets)
    adapters = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for number, parameter in enumerate(adapters.values()):
            parameter.copy_(parity.seeded_tensor(f"lora{number}", parameter.shape, 0))
    head = 2 * (encoder.feature_dim + 1)
    assert lora.check_gradients(model, image) == sum(map(torch.Tensor.numel, adapters.values())) + head
    model(image)[:, 0].sum().backward()
    assert adapters
    assert all(parameter.grad.abs().max() > 0 for parameter in adapters.values())
    with torch.no_grad():
        assert (model.eval()(image) - plain(image)).abs().max() > 1e-4
        plain.load_state_dict(lora.MergedState(model).state_dict())
        torch.testing.assert_close(plain(image), model(image), atol=1e-4, rtol=1e-4)


def check_frozen_statistics(build: Builder, variant: str) -> None:
    """Batch statistics of a frozen encoder stay as published, whatever mode the classifier is set to."""
    network = LinearProbe(build(variant, "tiny"), 2).train()
    before = {name: value.clone() for name, value in network.encoder.named_buffers()}
    assert any(name.endswith("running_mean") for name in before)
    network(tiny_input(network.encoder, count=1))
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.named_buffers())


def tiny_input(encoder: nn.Module, *, count: int = 2) -> Tensor:
    """Images of the encoder's size."""
    window = encoder.grid.window if isinstance(encoder, VolumeEncoder) else (encoder.input_spec.size,) * 2
    low = 0.0 if isinstance(encoder, VolumeEncoder) else -2.0
    return parity.seeded_input((count, encoder.input_spec.channels, *window), 0, low=low, high=low + 1 - 3 * low / 2)


@torch.no_grad()
def check_volume_interface(build: Builder, fm: str, variant: str) -> None:
    """The catalog's grid is the class's, a batch gives what single volumes give, other shapes are refused."""
    encoder = build(variant, "tiny")
    assert isinstance(encoder, VolumeEncoder)
    row, grid = input_spec(fm, variant), encoder.grid
    assert (
        (row["size"], row["channels"])
        == (encoder.input_spec.size, encoder.input_spec.channels)
        == (max(grid.window), 1)
    )
    assert (row["mean"], row["std"]) == ([0.0], [1.0])
    assert (tuple(row["window"]), row["axcodes"]) == (grid.window, grid.axcodes)
    assert (tuple(row["spacing"]), tuple(row["hu_range"])) == (grid.spacing, grid.hu_range)
    assert row["foreground_above"] == grid.foreground_above
    batch = tiny_input(encoder)
    features = encoder.encode_image(batch)["features"]
    assert features.shape == (2, encoder.feature_dim)
    assert features.isfinite().all()
    torch.testing.assert_close(encoder(batch[:1]), features[:1], atol=1e-5, rtol=0)
    assert (features[0] - features[1]).abs().max() > 1e-4
    assert torch.equal(build(variant, "tiny", seed=0)(batch[:1]), encoder(batch[:1]))
    assert not torch.equal(build(variant, "tiny", seed=1)(batch[:1]), encoder(batch[:1]))
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1e6
    for wrong in (batch.movedim(2, 4), batch[0], batch[:, 0], batch.expand(-1, 3, -1, -1, -1)):
        with pytest.raises(ValueError, match=rf"`image` must be \(B, 1, .* with axes {grid.axcodes}, but has shape"):
            encoder(wrong)
