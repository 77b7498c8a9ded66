"""Merlin's image tower (Blankemeier et al., "Merlin", Nature 2026, arXiv:2406.06512) through MONAI's ResNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import State, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.encoders.volume import VolumeEncoder, VolumeGrid
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

GRID = VolumeGrid((224, 224, 160), "RAS", (1.5, 1.5, 3.0), (-1000.0, 1000.0))
BLOCKS = (3, 8, 36, 3)  # of ResNet-152
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
FILE = "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt"
_REPO = "stanfordmimi/Merlin"
SOURCE = WeightSource(names=(FILE,), page=f"https://huggingface.co/{_REPO}", repo=_REPO, repo_files=(FILE,))
_PREFIX = "encode_image.i3_resnet."
# The text tower, and the heads for contrast and for phenotypes.
_OTHER_PARTS = re.compile(
    r"logit_scale|encode_text\.(text_encoder|linear_layer)\..+"
    r"|encode_image\.i3_resnet\.(classifier|contrastive_head)\.(weight|bias)"
)


class MerlinEncoder(VolumeEncoder):
    """ResNet-152 inflated to three dimensions, trained on abdominal CT with diagnosis codes and reports.

    ``features`` (B, 2048) is the average over the last map (the authors' image embedding). The text tower and the heads
    for contrast and phenotypes are not built.

    Args:
        variant: ``default``, the only one.
        weights: ``pretrained``, a path (the authors' file, of which the image tower's trunk is taken), ``random`` or
            ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "default", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        path = resolve_weights(weights, self.source(variant))
        widths = (4, 8, 16, 32) if weights_kind(weights) == "tiny" else WIDTHS
        super().__init__(feature_dim=EXPANSION * widths[-1], grid=GRID)
        with seeded(seed):
            self.net = build_tower((1, 1, 1, 1) if weights_kind(weights) == "tiny" else BLOCKS, widths)
        if path is not None:
            load_checked(self.net, rename_merlin(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights come from."""
        return pick_variant(variant, {"default": SOURCE}, "Merlin")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode volumes (B, 1, 224, 224, 160), axes R, A, S, in 0..1, to ``features`` (B, 2048)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        return {"features": self.net(slices_first(image))}


def build_tower(blocks: Sequence[int], widths: Sequence[int] = WIDTHS) -> ResNet:
    """The tower, (B, 3, Z, X, Y) -> (B, 4 * widths[-1]): no stride along Z at first, no biases in the shortcuts."""
    return ResNet(
        "bottleneck",
        list(blocks),
        list(widths),
        spatial_dims=3,
        n_input_channels=3,
        conv1_t_size=(3, 7, 7),
        conv1_t_stride=(1, 2, 2),
        feed_forward=False,
        bias_downsample=False,
    )


def slices_first(volume: Tensor) -> Tensor:
    """(B, 1, X, Y, Z) to the network's (B, 3, Z, X, Y): three equal channels, the axis of the slices first."""
    return volume.permute(0, 1, 4, 2, 3).expand(-1, 3, -1, -1, -1)


def rename_merlin(state: State) -> State:
    """The authors' names of the image tower's trunk to MONAI's; all other parts of the model are dropped."""
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if not _OTHER_PARTS.fullmatch(name)}
