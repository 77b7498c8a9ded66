"""SAM's architecture at any geometry, from segment-anything's own classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
GEOMETRIES: dict[str, dict[str, int | Sequence[int]]] = {
    "vit_b": {"width": 768, "depth": 12, "heads": 12, "global_blocks": (2, 5, 8, 11)},
    "vit_l": {"width": 1024, "depth": 24, "heads": 16, "global_blocks": (5, 11, 17, 23)},
    "vit_h": {"width": 1280, "depth": 32, "heads": 16, "global_blocks": (7, 15, 23, 31)},
}
# Same input and code, 16 x 16 tokens instead of 64 x 64: fast enough for tests at 1,024 pixels.
TINY: dict[str, int | Sequence[int]] = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "global_blocks": (1,),
    "patch_size": 64,
    "prompt_dim": 32,
    "decoder_mlp": 64,
}


def build_sam(
    *,
    width: int,
    depth: int,
    heads: int,
    global_blocks: Sequence[int],
    image_size: int = 1024,
    patch_size: int = 16,
    window_size: int = 14,
    relative_positions: bool = True,
    prompt_dim: int = 256,
    decoder_mlp: int = 2048,
    iou_width: int = 256,
    extra_masks: int = 3,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Sam:
    """SAM's architecture at any geometry; the defaults are those shared by the published ViT-B, L and H.

    Args:
        width: channels of the image encoder.
        depth: number of its blocks.
        heads: number of its attention heads.
        global_blocks: blocks with attention over the whole image; the others attend in windows (``window_size`` tokens;
            0 = global everywhere).
        image_size: edge of the square input in pixels.
        patch_size: edge of a token in pixels.
        window_size: edge of an attention window in tokens.
        relative_positions: decomposed relative positions in attention.
        prompt_dim: channels of the image embedding, the prompts and the decoder.
        decoder_mlp: hidden width of the decoder's MLPs.
        iou_width: hidden width of the head that predicts the IoU.
        extra_masks: alternative masks for one ambiguous point, beside the single mask.
        mean: per channel, of inputs in 0..255.
        std: per channel, of inputs in 0..255.
    """
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4,
        out_chans=prompt_dim,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=relative_positions,
        window_size=window_size,
        global_attn_indexes=tuple(global_blocks),
    )
    return assemble_sam(
        encoder,
        patch_size=patch_size,
        prompt_dim=prompt_dim,
        decoder_mlp=decoder_mlp,
        iou_width=iou_width,
        extra_masks=extra_masks,
        mean=mean,
        std=std,
    )


def assemble_sam(
    encoder: nn.Module,
    *,
    patch_size: int = 16,
    prompt_dim: int = 256,
    decoder_mlp: int = 2048,
    iou_width: int = 256,
    extra_masks: int = 3,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Sam:
    """SAM's prompt encoder and decoder behind any image encoder.

    Args:
        encoder: (B, 3, S, S) to (B, ``prompt_dim``, S / ``patch_size``, S / ``patch_size``), with S its ``img_size``.
        patch_size: edge of a cell of the image embedding in pixels.
        prompt_dim: see :func:`build_sam`, as for the rest.
        decoder_mlp: hidden width of the decoder's MLPs.
        iou_width: hidden width of the head that predicts the IoU.
        extra_masks: alternative masks for one ambiguous point.
        mean: per channel, of inputs in 0..255.
        std: per channel, of inputs in 0..255.
    """
    image_size = int(encoder.img_size)  # type: ignore[arg-type]
    grid = image_size // patch_size
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=extra_masks,
            transformer=TwoWayTransformer(depth=2, embedding_dim=prompt_dim, mlp_dim=decoder_mlp, num_heads=8),
            transformer_dim=prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=iou_width,
        ),
        pixel_mean=list(mean),
        pixel_std=list(std),
    ).eval()
