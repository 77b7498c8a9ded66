"""MobileSAM and TinySAM: SAM's prompts and decoder behind a TinyViT image encoder.

MobileSAM: Zhang et al., "Faster Segment Anything", arXiv:2306.14289. TinySAM: Shu et al., "TinySAM: Pushing the
Envelope for Efficient Segment Anything Model", AAAI 2025. TinyViT: Wu et al., "TinyViT: Fast Pretraining Distillation
for Small Vision Transformers", ECCV 2022, here timm's class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention, TinyVit
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import State, load_checked, read_checkpoint
from fairmedfm_monai.networks.segmenters.sam import SamCore
from fairmedfm_monai.networks.segmenters.sam_builder import assemble_sam
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

VARIANT = "vit_t"
IMAGE_SIZE = 1024
N_CLASSES = 1000
WIDTHS, DEPTHS, HEADS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
# Same input, code and 64 x 64 tokens, less of everything else.
TINY_WIDTHS, TINY_DEPTHS, TINY_HEADS = (8, 16, 16, 32), (1, 1, 1, 1), (1, 1, 1, 2)
TINY_DECODER = {"prompt_dim": 32, "decoder_mlp": 64}
MOBILE_SAM = WeightSource(
    names=("mobile_sam.pt",),
    page="https://github.com/ChaoningZhang/MobileSAM",
    url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
    sha256={"mobile_sam.pt": "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"},
)
TINY_SAM = WeightSource(
    names=("tinysam_42.3.pth", "tinysam.pth"),
    page="https://github.com/xinghaochen/TinySAM",
    url="https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth",
)


class TinyVitEncoder(nn.Module):
    """TinyViT without its last halving, then SAM's neck: (B, 3, S, S) to (B, ``out_dim``, S / 16, S / 16).

    The classifier of the pretraining (``trunk.head``) is in the published files and takes no part.

    Args:
        widths: channels of the four stages.
        depths: their numbers of blocks.
        heads: their numbers of attention heads (the first stage is convolutional).
        image_size: edge S of the square input in pixels.
        out_dim: channels of the image embedding.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = WIDTHS,
        depths: Sequence[int] = DEPTHS,
        heads: Sequence[int] = HEADS,
        image_size: int = IMAGE_SIZE,
        out_dim: int = 256,
    ) -> None:
        super().__init__()
        self.img_size = image_size
        self.trunk = TinyVit(
            num_classes=N_CLASSES,
            embed_dims=tuple(widths),
            depths=tuple(depths),
            num_heads=tuple(heads),
            window_sizes=WINDOWS,
            drop_path_rate=0.0,
        )
        # SAM's decoder wants 64 x 64 cells: the last merge only mixes channels, it does not halve the grid.
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], out_dim, kernel_size=1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Image embedding of (B, 3, S, S), normalised and padded."""
        try:
            return self.neck(self.trunk.forward_features(image))
        finally:
            # In eval mode timm keeps each block's biases, as gathered from its parameter: after load_state_dict they
            # would be the old ones, a second backward pass would fail, and so would deepcopy.
            for module in self.trunk.modules():
                if isinstance(module, Attention):
                    module.attention_bias_cache = {}


class MobileSamSegmenter(SamCore):
    """MobileSAM: a TinyViT distilled from SAM ViT-H's image encoder, with ViT-H's own prompt encoder and decoder.

    Preparation, prompts and masks are SAM's, see :class:`SamCore`.

    Args:
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        variant: ``vit_t``, the only one published.
        multimask: see :class:`SamCore`.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: the weights cannot be had, read or do not fit.
    """

    def __init__(
        self,
        weights: str | Path = "pretrained",
        *,
        variant: str = VARIANT,
        multimask: bool | None = None,
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, self.source(variant))
        with seeded(seed):
            sam = build_tiny_vit_sam(tiny=weights_kind(weights) == "tiny")
        super().__init__(sam, multimask=multimask)
        if path is not None:
            load_checked(self, rename_mobile_sam(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return _only(variant, "MobileSAM", MOBILE_SAM)


class TinySamSegmenter(MobileSamSegmenter):
    """TinySAM: MobileSAM's architecture, distilled further at several levels ("full-stage distillation").

    TinySAM's own decoder has no single-mask mode: it always gives the masks of tokens 1 to 3, for boxes and for many
    points too, and its published figures are of the best of these by predicted IoU. So it is here.

    Args:
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        variant: ``vit_t``, the only one (the quantised ``tinysam_w8a8.pth`` is another network).
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: the weights cannot be had, read or do not fit.
    """

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = VARIANT, seed: int = 0) -> None:
        super().__init__(weights, variant=variant, multimask=True, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return _only(variant, "TinySAM", TINY_SAM)


def _only(variant: str, model: str, source: WeightSource) -> WeightSource:
    if variant != VARIANT:
        msg = f"`variant` must be {VARIANT!r}, the only one of {model}, but got {variant!r}"
        raise ValueError(msg)
    return source


def build_tiny_vit_sam(*, tiny: bool = False) -> Sam:
    """``Sam`` with the published TinyViT of 5 million parameters, or with a ``tiny`` one for tests."""
    if not tiny:
        return assemble_sam(TinyVitEncoder())
    encoder = TinyVitEncoder(
        widths=TINY_WIDTHS, depths=TINY_DEPTHS, heads=TINY_HEADS, out_dim=TINY_DECODER["prompt_dim"]
    )
    return assemble_sam(encoder, **TINY_DECODER)  # type: ignore[arg-type]


def rename_mobile_sam(state: State) -> State:
    """The published names of MobileSAM and TinySAM to :class:`MobileSamSegmenter`'s; its own names stay.

    The official encoder counts a merge to the stage before it, timm's to the stage after it.
    """
    return {_rename(name): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    prefix = "image_encoder."
    if not name.startswith(prefix) or name.startswith((prefix + "neck.", prefix + "trunk.")):
        return name
    name = name.removeprefix(prefix)
    name = name.replace("patch_embed.seq.0.", "patch_embed.conv1.").replace("patch_embed.seq.2.", "patch_embed.conv2.")
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"stages.{int(found[1]) + 1}.downsample.", name)
    name = re.sub(r"^layers\.", "stages.", name)
    name = re.sub(r"\.c\.weight$", ".conv.weight", name)
    name = re.sub(r"^head\.", "head.fc.", name)
    name = re.sub(r"^norm_head\.", "head.norm.", name)
    return prefix + "trunk." + name
