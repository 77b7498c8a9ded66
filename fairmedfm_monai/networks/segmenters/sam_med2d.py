"""FT-SAM and SAM-Med2D (Cheng et al., "SAM-Med2D", arXiv:2308.16184): SAM ViT-B at 256 pixels, fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import State, load_checked, read_checkpoint
from fairmedfm_monai.networks.segmenters.sam import SamCore, to_uint8
from fairmedfm_monai.networks.segmenters.sam_builder import GEOMETRIES, TINY, build_sam
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SIZE = 256
# Same input, code and adapters, 8 x 8 tokens instead of 16 x 16.
TINY_MED2D = {**TINY, "patch_size": 32}
_DRIVE = "https://drive.google.com/file/d/{}/view"
FT_SAM = WeightSource(names=("ft-sam_b.pth",), page=_DRIVE.format("1J4qQt9MZZYdv1eoxMTJ4FL8Fz65iUFM8"))
SAM_MED2D = WeightSource(names=("sam-med2d_b.pth",), page=_DRIVE.format("1ARiB5RkSsWmAB_8mqWnwDF8ZKTtFwsjl"))


class Adapter(nn.Module):
    """What SAM-Med2D adds to each block of the image encoder: a gate per channel, then a convolutional bottleneck.

    With the gate g = sigmoid(W2 relu(W1 mean(h))) over the image and s = relu(up(relu(down(g h)))), where ``down``
    halves the grid and ``up`` doubles it, the output is LayerNorm(h + s).

    Args:
        width: channels; the grid's edges must be even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.channel = nn.Sequential(
            nn.Linear(width, width // 4, bias=False),
            nn.ReLU(),
            nn.Linear(width // 4, width, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w, C) to (B, h, w, C)."""
        gated = tokens * self.channel(tokens.mean(dim=(1, 2)))[:, None, None]
        return self.norm(tokens + self.spatial(gated.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class AdaptedMlp(MLPBlock):
    """A block's MLP with the adapter beside it: both see the same normalised tokens, and their outputs are added.

    Args:
        width: channels.
        hidden: hidden channels of the MLP.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.adapter = Adapter(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to (B, h, w, C)."""
        return super().forward(x) + self.adapter(x)


class Sam256(SamCore):
    """SAM ViT-B fine-tuned on SA-Med2D-20M at 256 x 256, prepared and read out as in the authors' test script.

    What differs from SAM, and stays as the weights were trained:

    * channels are in the order blue, green, red, yet normalised with SAM's constants for red, green, blue;
    * an image smaller than 256 on both sides keeps its pixels and is surrounded by zeros, centred; any other is
      squashed to 256 x 256 by the nearest pixel (the authors' notebook squashes small ones too);
    * always the best of three masks by predicted IoU;
    * mask prompts are probabilities: ``decode`` takes logits as everywhere and applies the sigmoid itself.

    Args:
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        source: where ``pretrained`` is found.
        adapters: build those of SAM-Med2D.
        rename: published names to this class's.
        seed: of ``random`` and ``tiny``.
    """

    def __init__(
        self,
        weights: str | Path,
        source: WeightSource,
        *,
        adapters: bool = False,
        rename: Callable[[State], State] = dict,
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, source)
        with seeded(seed):
            sam = build_sam_med2d(adapters=adapters, tiny=weights_kind(weights) == "tiny")
        super().__init__(sam, multimask=True)
        if path is not None:
            load_checked(self, rename(read_training_file(path)), origin=str(path))
        self.eval()

    def preprocess(self, image: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) in 0..255, channels reversed; squash to the square unless both sides are smaller."""
        arrays = list(to_uint8(image))
        size = self.input_spec.size
        if max(image.shape[-2:]) >= size:
            arrays = [squash_nearest(array, size) for array in arrays]
        # The authors read files with OpenCV (blue first) and never swap the channels: the weights know no other order.
        blue_first = np.stack(arrays)[..., ::-1].copy()
        stacked = torch.from_numpy(blue_first).permute(0, 3, 1, 2).to(self.pixel_mean)
        return (stacked - self.pixel_mean) / self.pixel_std

    def corner(self, input_size: tuple[int, ...]) -> tuple[int, int]:
        """Row and column where a small image begins inside the zeros around it (odd rests go right and below)."""
        return (self.input_spec.size - input_size[0]) // 2, (self.input_spec.size - input_size[1]) // 2

    def _predict(
        self, features: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # Earlier masks were fed back as probabilities in training, where SAM feeds back logits.
        return super()._predict(features, points, boxes, None if masks is None else masks.sigmoid())


class FtSamSegmenter(Sam256):
    """FT-SAM: the decoder of SAM ViT-B fine-tuned at 256 x 256; see :class:`Sam256`.

    Args:
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        variant: ``vit_b``, the only one published.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: the weights cannot be had, read or do not fit.
    """

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = "vit_b", seed: int = 0) -> None:
        super().__init__(weights, self.source(variant), seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return _known(variant, {"vit_b": FT_SAM}, "FT-SAM")


class SamMed2dSegmenter(Sam256):
    """SAM-Med2D: SAM ViT-B at 256 x 256 with an adapter in every block of the image encoder; see :class:`Sam256`.

    Args:
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        variant: ``vit_b``, or ``no_adapter`` = the same file without its adapters ("SAM-Med2D*" in the paper).
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: the weights cannot be had, read or do not fit.
    """

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = "vit_b", seed: int = 0) -> None:
        source, adapters = self.source(variant), variant != "no_adapter"
        super().__init__(
            weights, source, adapters=adapters, rename=partial(rename_sam_med2d, adapters=adapters), seed=seed
        )

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return _known(variant, {"vit_b": SAM_MED2D, "no_adapter": SAM_MED2D}, "SAM-Med2D")


def _known(variant: str, sources: dict[str, WeightSource], model: str) -> WeightSource:
    if variant not in sources:
        msg = f"`variant` must be one of {model}'s, {', '.join(sources)}, but got {variant!r}"
        raise ValueError(msg)
    return sources[variant]


def build_sam_med2d(*, adapters: bool, tiny: bool = False) -> Sam:
    """SAM ViT-B at 256 pixels, or a ``tiny`` one for tests, with or without the adapters of SAM-Med2D."""
    sam = build_sam(image_size=IMAGE_SIZE, **(TINY_MED2D if tiny else GEOMETRIES["vit_b"]))  # type: ignore[arg-type]
    if adapters:
        for block in sam.image_encoder.blocks:
            block.mlp = AdaptedMlp(block.mlp.lin1.in_features, block.mlp.lin1.out_features)
    return sam.eval()


def rename_sam_med2d(state: State, *, adapters: bool = True) -> State:
    """The published names to :class:`SamMed2dSegmenter`'s, or without ``adapters`` their tensors left out."""
    if not adapters:
        return {name: tensor for name, tensor in state.items() if ".Adapter." not in name}
    return {name.replace(".Adapter.", ".mlp.adapter."): tensor for name, tensor in state.items()}


def read_training_file(path: Path) -> State:
    """As ``read_checkpoint``, also for files of the authors' training script, which hold a whole Adam optimiser.

    Raises:
        WeightsError: if the file is damaged or holds objects that would have to be executed.
    """
    return read_checkpoint(path, inert=("torch.optim.adam.Adam",))


def squash_nearest(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """H x W x 3 to size x size x 3: output pixel i is input pixel floor(i H / size), as OpenCV's INTER_NEAREST.

    In OpenCV's own order of floating-point steps: exact integers would take another pixel where i H / size is whole.
    """
    rows, columns = (np.floor(np.arange(size) * (1 / (size / edge))).astype(int) for edge in array.shape[:2])
    return array[rows][:, columns]
