"""Residual and dense networks (He et al., CVPR 2016; Huang et al., CVPR 2017) through timm; names as torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import State, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

from timm.models.densenet import DenseNet  # isort: skip - after weights, which switches the hub's telemetry off
from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # isort: skip

# Blocks that start as the identity would leave a random network without gradients for its inner layers.
_RESNET = partial(ResNet, zero_init_last=False)
_NARROW = {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
# Published and tiny geometry.
BACKBONES: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "resnet18": (partial(_RESNET, BasicBlock, layers=(2, 2, 2, 2)), partial(_RESNET, BasicBlock, **_NARROW)),
    "resnet50": (partial(_RESNET, Bottleneck, layers=(3, 4, 6, 3)), partial(_RESNET, Bottleneck, **_NARROW)),
    "densenet121": (
        partial(DenseNet, growth_rate=32, block_config=(6, 12, 24, 16)),
        partial(DenseNet, growth_rate=8, block_config=(1, 1, 1, 1)),
    ),
}


def build_backbone(name: str, *, outputs: int = 0, tiny: bool = False) -> nn.Module:
    """A network (B, 3, H, W) -> (B, D): the average over the last map, with ``outputs`` > 0 a linear layer after it.

    Args:
        name: ``resnet18``, ``resnet50`` or ``densenet121``.
        outputs: width of the last linear layer; 0 = none.
        tiny: one narrow block per stage.

    Raises:
        ValueError: for another name.
    """
    return pick_variant(name, BACKBONES, "the backbones")[int(tiny)](num_classes=outputs)


class ConvNetEncoder(ImageEncoder):
    """One convolutional backbone as an image encoder.

    ``features`` (B, D) is what :func:`build_backbone` gives.

    Args:
        backbone: name of the backbone.
        input_spec: what the weights were trained with.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        source: where ``pretrained`` is found.
        rename: published names to torchvision's; drops what it documents and nothing else.
        outputs: as for :func:`build_backbone`.
        seed: of ``random`` and ``tiny``.

    Raises:
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(
        self,
        backbone: str,
        input_spec: InputSpec,
        weights: str | Path,
        *,
        source: WeightSource,
        rename: Callable[[State], State],
        outputs: int = 0,
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, source)
        with seeded(seed):
            net = build_backbone(backbone, outputs=outputs, tiny=weights_kind(weights) == "tiny")
        super().__init__(feature_dim=outputs or int(net.num_features), input_spec=input_spec)  # type: ignore[arg-type]
        self.net = net
        if path is not None:
            load_checked(self.net, rename(read_checkpoint(path)), origin=str(path))
        self.eval()

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, C, S, S) normalised images to ``features`` (B, D)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        return {"features": self.net(image)}
