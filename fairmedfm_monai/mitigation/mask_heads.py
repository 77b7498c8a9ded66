"""Where the mask decoder of a promptable segmenter ends.

A decoder of SAM's make multiplies upscaled features of the image with a vector that a small network, one per mask
token, makes of that token: mask logits are linear in the last layer of each of these networks.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairmedfm_monai.usages.segmenter_parts import part, part_path, whole_path


def training_network(network: nn.Module) -> Any:
    """What the trainer trains, without what wraps it for several processes.

    Raises:
        TypeError: what cannot tell which case it decodes.
    """
    whole = network.module if isinstance(network, DistributedDataParallel) else network
    if not hasattr(whole, "on_case"):
        msg = f"`network` must be a segmenter made for training (PromptedNetwork, ...), but is a {type(whole).__name__}"
        raise TypeError(msg)
    return whole


def segmenter_of(network: nn.Module) -> Any:
    """The segmenter inside a network for training."""
    inner = getattr(network, "network", network)
    return inner.segmenter


def image_encoder_trains(segmenter: nn.Module) -> bool:
    """Whether any parameter of the image encoder does."""
    return any(parameter.requires_grad for parameter in part(segmenter, "image_encoder").parameters())


def last_layers(network: nn.Module) -> dict[str, nn.Linear] | None:
    """Paths and modules of the layers in which mask logits are linear, one per mask token; None = not of this make.

    Args:
        network: a segmenter, or what has one as its child ``segmenter``.
    """
    path = whole_path(network, "mask_decoder")
    weighing = getattr(network.get_submodule(path), "output_hypernetworks_mlps", None)
    if not isinstance(weighing, nn.ModuleList) or not len(weighing):
        return None
    found = {}
    for number, layers in enumerate(weighing):
        last = _last(layers)
        if last is None:
            return None
        found[f"{path}.output_hypernetworks_mlps.{number}.{last}"] = layers.get_submodule(last)
    return found  # type: ignore[return-value]


def _last(layers: nn.Module) -> str | None:
    """Name of the layer that gives the vector: segment-anything's ``layers``, transformers' ``proj_out``."""
    if getattr(layers, "sigmoid_output", False):
        return None
    several = getattr(layers, "layers", ())
    name = "proj_out" if hasattr(layers, "proj_out") else f"layers.{len(several) - 1}"
    try:
        return name if isinstance(layers.get_submodule(name), nn.Linear) else None
    except AttributeError:
        return None


def mask_features(segmenter: nn.Module) -> tuple[nn.Module, int] | None:
    """Module that gives the upscaled features (R, C, ...) of R prompts on one image, and C; None = not of this make.

    Of what the module gives, only what has C channels is meant: transformers' activation is used before, too.
    """
    decoder: Any = segmenter.get_submodule(part_path(segmenter, "mask_decoder"))
    upscaling = getattr(decoder, "output_upscaling", None)
    if isinstance(upscaling, nn.Module):
        convolutions = (nn.ConvTranspose2d, nn.ConvTranspose3d)
        widths = [layer.out_channels for layer in upscaling.modules() if isinstance(layer, convolutions)]
        return (upscaling, widths[-1]) if widths else None
    last = getattr(decoder, "upscale_conv2", None)
    activation = getattr(decoder, "activation", None)
    if isinstance(last, nn.ConvTranspose2d) and isinstance(activation, nn.Module):
        return activation, last.out_channels
    return None
