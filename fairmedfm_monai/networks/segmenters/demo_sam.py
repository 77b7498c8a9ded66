"""demo_sam: segment-anything's own architecture at small geometry, trained by scripts/train_demo_models.py.

A demonstration of the machinery, not a medical model: it was trained on the slices of one CT.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from fairmedfm_monai.networks.pretrained import fill_shipped, only_variant
from fairmedfm_monai.networks.segmenters.sam import SamCore
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
    grid = IMAGE_SIZE // patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=IMAGE_SIZE,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=4,
            out_chans=prompt_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=False,
            window_size=0,
            global_attn_indexes=tuple(range(depth)),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=16,
        ),
        # The three extra masks of SAM would need training of their own; one token, one mask.
        mask_decoder=MaskDecoder(
            num_multimask_outputs=0,
            transformer=TwoWayTransformer(depth=2, embedding_dim=prompt_dim, mlp_dim=decoder_mlp, num_heads=8),
            transformer_dim=prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=prompt_dim,
        ),
        pixel_mean=[MEAN] * 3,
        pixel_std=[STD] * 3,
    )


class DemoSAM(SamCore):
    """Small promptable segmenter for CT slices: boxes, one point, several points.

    A demo, not a medical model. Mask prompts were not trained. Input: (B, 3, H, W), three equal grey channels in
    0..255, as for every SAM; the long side is resized to 256.

    Args:
        weights: ``pretrained`` (shipped with the package), a path, ``random`` or ``tiny``.
        variant: ``default``, the only one.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
    """

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = "default", seed: int = 0) -> None:
        only_variant(variant)
        with seeded(seed):
            sam = build_demo_sam(**(TINY if weights_kind(weights) == "tiny" else GEOMETRY))
        super().__init__(sam, multimask=False)
        fill_shipped(self, "demo_sam", weights)
        self.eval()
