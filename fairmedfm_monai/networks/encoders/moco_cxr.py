"""MoCo-CXR (Sowrirajan et al., MIDL 2021, arXiv:2010.05352): momentum contrast on CheXpert."""

from __future__ import annotations

import re
from pathlib import Path

from fairmedfm_monai.networks.checkpoint import State
from fairmedfm_monai.networks.encoders.convnets import ConvNetEncoder
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

# Grey statistics of the authors' training scripts, in all three channels.
SPEC = InputSpec(size=320, mean=(0.502,) * 3, std=(0.085585,) * 3)
FILES = {
    "resnet18": "r8w-00001-v2.pth.tar",
    "resnet50": "r5w-00001.pth.tar",
    "densenet121": "d1w-00001.pth.tar",
}
_QUERY = "encoder_q."
# What momentum contrast needs for training only: the queue of negatives, the slow copy of the encoder and the
# projection (one linear layer, or two with --mlp).
_TRAINING_ONLY = re.compile(r"queue|queue_ptr|encoder_k\..+|encoder_q\.(fc|classifier)\.([02]\.)?(weight|bias)")


class MoCoCXREncoder(ConvNetEncoder):
    """The query encoder of momentum contrast.

    ``features`` is the average over the backbone's last map: 512 numbers of ResNet-18, 2048 of ResNet-50, 1024 of
    DenseNet-121. FairMedFM reads a 128-number projection instead, but drops its trained weights and so projects at
    random; that is not built here.

    Args:
        variant: ``resnet18``, ``resnet50`` or ``densenet121``.
        weights: ``pretrained``, a path (one of the authors' files; queue, slow encoder and projection in it are left
            out), ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "resnet18", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        source = self.source(variant)
        super().__init__(variant, SPEC, weights, source=source, rename=rename_moco, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        file = pick_variant(variant, FILES, "MoCo-CXR")
        return WeightSource(
            names=(file,),
            page="https://github.com/stanfordmlgroup/MoCo-CXR",
            url=f"https://storage.googleapis.com/moco-cxr/{file}",
        )


def rename_moco(state: State) -> State:
    """The query encoder's names to torchvision's, without what only training needs."""
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name.removeprefix(_QUERY): tensor for name, tensor in bare.items() if not _TRAINING_ONLY.fullmatch(name)}
