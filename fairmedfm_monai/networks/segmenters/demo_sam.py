"""demo_sam: segment-anything's own architecture at small geometry, trained by scripts/train_demo_models.py.

A demonstration of the machinery, not a medical model: it was trained on the slices of one CT.
"""

from __future__ import annotations

from pathlib import Path

from segment_anything.modeling import Sam

from fairmedfm_monai.networks.pretrained import fill_shipped, only_variant
from fairmedfm_monai.networks.segmenters.sam import SamCore
from fairmedfm_monai.networks.segmenters.sam_builder import build_sam
from fairmedfm_monai.networks.weights import seeded, weights_kind

IMAGE_SIZE = 256
PATCH_SIZE = 16
MEAN, STD = 76.0, 70.0  # grey level of soft-tissue windows, out of 255
TRAINED_PROMPTS = ("box", "center", "point", "points")
GEOMETRY = {"width": 160, "depth": 4, "heads": 5, "prompt_dim": 128, "decoder_mlp": 256, "patch_size": PATCH_SIZE}
# Same input and code, 8 x 8 tokens instead of 16 x 16.
TINY = {"width": 32, "depth": 1, "heads": 2, "prompt_dim": 32, "decoder_mlp": 32, "patch_size": 32}


def build_demo_sam(*, width: int, depth: int, heads: int, prompt_dim: int, decoder_mlp: int, patch_size: int) -> Sam:
    """segment_anything's ``Sam`` with global attention, absolute positions only, and one mask per prompt.

    Args:
        width: channels of the image encoder.
        depth: number of its blocks.
        heads: number of its attention heads.
        prompt_dim: channels of the image embedding, the prompts and the decoder.
        decoder_mlp: hidden width of the decoder's MLPs.
        patch_size: edge of a token in pixels.
    """
    return build_sam(
        width=width,
        depth=depth,
        heads=heads,
        global_blocks=range(depth),
        image_size=IMAGE_SIZE,
        patch_size=patch_size,
        window_size=0,
        relative_positions=False,
        prompt_dim=prompt_dim,
        decoder_mlp=decoder_mlp,
        iou_width=prompt_dim,
        extra_masks=0,  # the three extra masks of SAM would need training of their own
        mean=[MEAN] * 3,
        std=[STD] * 3,
    )


class DemoSAM(SamCore):
    """Small promptable segmenter for CT slices: boxes, one point, several points.

    A demo, not a medical model. Mask prompts were not trained and are refused. Input: (B, 3, H, W), three equal grey
    channels in 0..255, as for every SAM; the long side is resized to 256.

    Args:
        weights: ``pretrained`` (shipped with the package), a path, ``random`` or ``tiny``.
        variant: ``default``, the only one.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
    """

    accepts = frozenset({"point", "box"})

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = "default", seed: int = 0) -> None:
        only_variant(variant)
        with seeded(seed):
            sam = build_demo_sam(**(TINY if weights_kind(weights) == "tiny" else GEOMETRY))
        super().__init__(sam, multimask=False)
        fill_shipped(self, "demo_sam", weights)
        self.eval()
