"""Training-time view of ``demo_sam``: start values, the batched forward pass and the losses."""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from demo_training.sam_data import IMAGE_SIZE, MASK_SIZE, Prompts

NEAR = 1.6  # the balanced loss counts the prompted object's box, enlarged by this, as much as the rest of the image


def structured_start(sam: Sam, generator: torch.Generator) -> None:
    """Start values under which the decoder's attention begins as "same place".

    In this architecture positions enter only the queries and keys of the decoder, never its values, so "inside the
    box" has to be learnt by matching positions. Orthogonal queries (gain 2) with equal keys give that matching from
    the start; encoder positions start as sines; prompt labels and output tokens are halved so that they do not
    drown the positions.
    """
    for module in sam.mask_decoder.transformer.modules():
        if hasattr(module, "q_proj"):
            weight = torch.empty(module.q_proj.weight.shape)
            nn.init.orthogonal_(weight, gain=2.0, generator=generator)
            with torch.no_grad():
                for projection in (module.q_proj, module.k_proj):
                    projection.weight.copy_(weight)
                    projection.bias.zero_()
    with torch.no_grad():
        sam.image_encoder.pos_embed.copy_(_sines(sam.image_encoder.pos_embed.shape))
        encoder, decoder = sam.prompt_encoder, sam.mask_decoder
        for embedding in (*encoder.point_embeddings, encoder.not_a_point_embed, encoder.no_mask_embed):
            embedding.weight.mul_(0.5)
        for embedding in (decoder.iou_token, decoder.mask_tokens):
            embedding.weight.mul_(0.5)


def _sines(shape: torch.Size, *, octaves: int = 4, amplitude: float = 0.3) -> torch.Tensor:
    """(1, H, W, C) sines and cosines of both coordinates in `octaves` octaves, repeated over the channels."""
    _, height, width, channels = shape
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    waves = []
    for octave in range(octaves):
        for coordinate in (xx, yy):
            phase = math.pi * 2**octave * coordinate
            waves += [torch.sin(phase), torch.cos(phase)]
    stack = torch.stack(waves, -1)
    repeats = -(-channels // stack.shape[-1])
    return amplitude * stack.repeat(1, 1, repeats)[None, :, :, :channels]


class AuxiliaryHead(nn.Module):
    """Predicts the structure of every mask cell from the image embedding; used in training only."""

    def __init__(self, *, width: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, classes * 16, kernel_size=1)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """(B, width, 16, 16) -> logits (B, classes, 64, 64)."""
        return F.pixel_shuffle(self.classify(embedding), 4)


def decode_batch(sam: Sam, embedding: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder of segment_anything on prompts of many images at once.

    ``MaskDecoder.predict_masks`` serves one image per call; here each prompt brings its own image embedding. Box
    corners and points go through the same embedding as in ``PromptEncoder``.

    Args:
        sam: the model.
        embedding: (B, C, 16, 16) image embeddings.
        prompts: P prompts.

    Returns:
        Mask logits (P, 64, 64) and predicted IoU (P,).
    """
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    places = encoder.pe_layer.forward_with_coords(prompts.coords + 0.5, (IMAGE_SIZE, IMAGE_SIZE))
    kinds = torch.stack([encoder.not_a_point_embed.weight[0], *(e.weight[0] for e in encoder.point_embeddings)])
    sparse = torch.where((prompts.labels == -1)[..., None], 0.0, places) + kinds[prompts.labels + 1]
    count = len(sparse)
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([outputs.expand(count, -1, -1), sparse], dim=1)
    image = embedding[prompts.image] + encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    positions = encoder.get_dense_pe().expand(count, -1, -1, -1)
    tokens, image = decoder.transformer(image, positions, tokens)
    upscaled = decoder.output_upscaling(image.transpose(1, 2).unflatten(2, (MASK_SIZE // 4, MASK_SIZE // 4)))
    kernel = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    masks = torch.einsum("pc,pchw->phw", kernel, upscaled)
    return masks, decoder.iou_prediction_head(tokens[:, 0])[:, 0]


def mask_loss(
    logits: torch.Tensor, iou: torch.Tensor, boxes: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice loss + cross-entropy balanced between the object's neighbourhood and the rest + error of the IoU guess.

    Args:
        logits: (P, 64, 64).
        iou: (P,) predicted IoU.
        boxes: (P, 4) tight boxes of the objects, as in ``Prompts``.
        target: (P, 64, 64) reference masks, as in ``Prompts``.

    Returns:
        The loss and the mean soft Dice (for the log).
    """
    near = _near(boxes)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    inside = (entropy * near).sum((1, 2)) / near.sum((1, 2)).clamp(min=1)
    outside = (entropy * (1 - near)).sum((1, 2)) / (1 - near).sum((1, 2)).clamp(min=1)
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum((1, 2))
    dice = (2 * overlap + 1) / (probability.sum((1, 2)) + target.sum((1, 2)) + 1)
    with torch.no_grad():
        hard, truth = logits > 0, target > 0.5
        reached = (hard & truth).sum((1, 2)) / (hard | truth).sum((1, 2)).clamp(min=1)
    guess = F.mse_loss(iou, reached.float())
    return (1 - dice).mean() + inside.mean() + outside.mean() + 0.2 * guess, dice.detach().mean()


def _near(boxes: torch.Tensor) -> torch.Tensor:
    """(P, 64, 64) one where the mask cell lies in the box enlarged by ``NEAR``."""
    cell = IMAGE_SIZE / MASK_SIZE
    centre = (boxes[:, :2] + boxes[:, 2:] + 1) / 2 / cell
    half = ((boxes[:, 2:] - boxes[:, :2] + 1) / 2 * NEAR / cell).clamp(min=1.0)
    axis = torch.arange(MASK_SIZE) + 0.5
    near_x = ((axis - centre[:, :1]).abs() <= half[:, :1]).float()
    near_y = ((axis - centre[:, 1:]).abs() <= half[:, 1:]).float()
    return near_y[:, :, None] * near_x[:, None, :]


def auxiliary_loss(logits: torch.Tensor, structures: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the auxiliary head.

    Args:
        logits: (B, classes, 64, 64).
        structures: (B, 256, 256) class per pixel; the middle pixel of each cell counts.
    """
    return F.cross_entropy(logits, structures[:, 2::4, 2::4])
