"""C2L (Zhou et al., "Comparing to Learn", MICCAI 2020): ResNet-18 of radiographs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import State
from fairmedfm_monai.networks.encoders.convnets import ConvNetEncoder
from fairmedfm_monai.networks.encoders.timm_vit import IMAGENET_MEAN, IMAGENET_STD
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

# The authors' last pooling is 7 x 7 pixels wide, so their network takes this size only.
SPEC = InputSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Width of the trained linear layer that a variant keeps.
OUTPUTS = {"resnet18": 128, "resnet18_pooled": 0}
SOURCE = WeightSource(
    names=("res18_C2L.pth",),
    page="https://drive.google.com/file/d/1DJ1jrbDvCfBPeIK6fw2WqkkEmUXmUf2C/view",
)
_PREFIX = "encoder.module."
_HEAD = ("fc.weight", "fc.bias")


class C2LEncoder(ConvNetEncoder):
    """ResNet-18 trained by comparing representations of radiographs.

    ``features`` of ``resnet18`` is the output of the trained linear layer at unit length, 128 numbers (what FairMedFM's
    linear probe reads); of ``resnet18_pooled`` the 512 averaged ones before that layer (the authors' linear probing),
    which is then left out of the network.

    Args:
        variant: ``resnet18`` or ``resnet18_pooled``, both of the same file.
        weights: ``pretrained``, a path (the authors' file), ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "resnet18", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        source, outputs = self.source(variant), OUTPUTS[variant]
        rename = rename_c2l if outputs else rename_c2l_pooled
        super().__init__("resnet18", SPEC, weights, source=source, rename=rename, outputs=outputs, seed=seed)
        self.unit_length = outputs > 0

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights come from."""
        pick_variant(variant, OUTPUTS, "C2L")
        return SOURCE

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 224, 224) normalised images to ``features`` (B, D)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        features = self.net(image)
        return {"features": F.normalize(features, dim=-1) if self.unit_length else features}


def rename_c2l(state: State) -> State:
    """The authors' names to torchvision's; nothing is dropped."""
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}


def rename_c2l_pooled(state: State) -> State:
    """As :func:`rename_c2l`, without the linear layer."""
    return {name: tensor for name, tensor in rename_c2l(state).items() if name not in _HEAD}
