"""SAM 2.1's network at any geometry, from transformers' own classes, and the names of its published files."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)

from fairmedfm_monai.networks.checkpoint import State

Geometry = dict[str, int | Sequence[int]]  # arguments of `build_sam2`
GEOMETRIES: dict[str, Geometry] = {
    "tiny": {"width": 96, "heads": 1, "blocks": (1, 2, 7, 2), "global_blocks": (5, 7, 9)},
    "small": {"width": 96, "heads": 1, "blocks": (1, 2, 11, 2), "global_blocks": (7, 10, 13)},
    "base_plus": {
        "width": 112,
        "heads": 2,
        "blocks": (2, 3, 16, 3),
        "global_blocks": (12, 16, 20),
        "background": (14, 14),
    },
    "large": {
        "width": 144,
        "heads": 2,
        "blocks": (2, 6, 36, 4),
        "global_blocks": (23, 33, 43),
        "windows": (8, 4, 16, 8),
    },
}
# Same code and input; 16 x 16 tokens at the top, whatever the size of the image.
TINY_TOKENS = 16
TINY: Geometry = {
    "width": 8,
    "heads": 1,
    "blocks": (1, 1, 2, 1),
    "global_blocks": (3,),  # never the first block of a stage, which pools its windows
    "channels": 64,
    "decoder_mlp": 64,
    "memory_layers": 1,
    "memory_mlp": 64,
}
# Attribute of the segmenter that holds the network, hence the prefix of its tensors.
PREFIX = "sam2."
_MATRICES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
_POINTS = tuple(f"prompt_encoder.point_embeddings.{number}.weight" for number in range(4))
_MLPS = r"^(object_pointer_proj|mask_decoder\.(?:\w+_head|output_hypernetworks_mlps\.\d+))"
# Applied in this order to the names of the authors' files.
_RULES = (
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_(mask_decoder|prompt_encoder)\.", r"\1."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"\.fuser\.", ".memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv([12])\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
    *(
        (rf"\.mask_downsampler\.encoder\.{3 * layer}\.", f".mask_downsampler.layers.{layer}.conv.")
        for layer in range(4)
    ),
    *(
        (rf"\.mask_downsampler\.encoder\.{3 * layer + 1}\.", f".mask_downsampler.layers.{layer}.layer_norm.")
        for layer in range(4)
    ),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm(\d?|_final_attn)\.", r".layer_norm\1."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (_MLPS + r"\.layers\.0\.", r"\1.proj_in."),
    (_MLPS + r"\.layers\.1\.", r"\1.layers.0."),
    (_MLPS + r"\.layers\.2\.", r"\1.proj_out."),
)


def build_sam2(
    *,
    width: int,
    heads: int,
    blocks: Sequence[int],
    global_blocks: Sequence[int],
    windows: Sequence[int] = (8, 4, 14, 7),
    background: Sequence[int] = (7, 7),
    image_size: int = 1024,
    patch_stride: int = 4,
    channels: int = 256,
    decoder_mlp: int = 2048,
    memory_layers: int = 4,
    memory_mlp: int = 2048,
) -> Sam2VideoModel:
    """SAM 2.1 with its memory; the defaults are those shared by all published sizes.

    Args:
        width: channels of the first of four stages of the Hiera encoder; each stage doubles them.
        heads: attention heads of the first stage; each stage doubles them.
        blocks: blocks per stage.
        global_blocks: blocks with attention over the whole image, counted through all stages.
        windows: edge of the attention windows per stage, in tokens.
        background: size of the position table that is stretched over the image.
        image_size: edge of the square input in pixels; a multiple of 32 times ``patch_stride`` / 4.
        patch_stride: pixels per token of the first stage; low-resolution masks have this stride too.
        channels: channels of the image embedding, the prompts and the decoder; a multiple of 64.
        decoder_mlp: hidden width of the decoder's MLPs.
        memory_layers: layers of the attention to the memory.
        memory_mlp: their hidden width.
    """
    top = 4 * patch_stride
    backbone = _backbone(width, heads, blocks, patch_stride)
    backbone.image_size = [image_size] * 2
    backbone.global_attention_blocks = list(global_blocks)
    backbone.window_size_per_stage = list(windows)
    backbone.window_positional_embedding_background_size = list(background)
    config = Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=backbone.embed_dim_per_stage[::-1],
            backbone_feature_sizes=[[image_size // (patch_stride * factor)] * 2 for factor in (1, 2, 4)],
            fpn_hidden_size=channels,
        ),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=channels, image_size=image_size, patch_size=top),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=channels, mlp_dim=decoder_mlp, iou_head_hidden_dim=channels
        ),
        image_size=image_size,
        memory_attention_hidden_size=channels,
        memory_attention_num_layers=memory_layers,
        memory_attention_feed_forward_hidden_size=memory_mlp,
        memory_attention_rope_feat_sizes=[image_size // top] * 2,
        memory_encoder_hidden_size=channels,
        mask_downsampler_embed_dim=channels,
        memory_fuser_embed_dim=channels,
        memory_fuser_intermediate_dim=4 * channels,
    )
    return Sam2VideoModel(config).eval()


def _backbone(width: int, heads: int, blocks: Sequence[int], patch_stride: int) -> Sam2HieraDetConfig:
    """Hiera with four stages, each of twice the width and the heads of the one before."""
    return Sam2HieraDetConfig(
        hidden_size=width,
        num_attention_heads=heads,
        patch_kernel_size=[2 * patch_stride - 1] * 2,
        patch_stride=[patch_stride] * 2,
        patch_padding=[patch_stride - 1] * 2,
        blocks_per_stage=list(blocks),
        embed_dim_per_stage=[width * 2**stage for stage in range(4)],
        num_attention_heads_per_stage=[heads * 2**stage for stage in range(4)],
    )


def tiny_geometry(geometry: Geometry) -> Geometry:
    """Geometry of ``weights="tiny"`` with the image size of ``geometry``."""
    image_size = int(geometry.get("image_size", 1024))  # type: ignore[arg-type]
    return {**TINY, "image_size": image_size, "patch_stride": image_size // (4 * TINY_TOKENS)}


def rename_sam2(state: State) -> State:
    """Names of any published form as the segmenter's own: the authors' files, transformers' files, or ours.

    The four point embeddings of the authors' files become one tensor, and the matrix of the position encoding, which
    transformers holds twice and publishes once or twice, is put in both places. Nothing is dropped.
    """
    names = {name: name.removeprefix(PREFIX) for name in state}
    if any(name.startswith(("image_encoder.", "sam_mask_decoder.")) for name in state):
        names = {name: _rename(name) for name in state}
    renamed = {names[name]: tensor for name, tensor in state.items()}
    if all(name in renamed for name in _POINTS):
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([renamed.pop(name) for name in _POINTS])
    for name, other in (_MATRICES, _MATRICES[::-1]):
        if name in renamed:
            renamed.setdefault(other, renamed[name])
    return {PREFIX + name: tensor for name, tensor in renamed.items()}


def _rename(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
