"""What an adversary reads of segmenters: one vector per case, though cases are decoded one after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fairmedfm_monai.mitigation.mask_heads import image_encoder_trains, mask_features, segmenter_of
from fairmedfm_monai.networks.segmenters.base import ImageEmbedding
from fairmedfm_monai.usages.embeddings import pooled
from fairmedfm_monai.usages.prompted_training import probe_image


class CaseRepresentation:
    """Vectors (B, C) of the batch that a network for training has just decoded.

    Where the image encoder trains, wholly or by adapters, the vector is the mean over the positions of the embedding
    that the decoder gets. Where it is frozen nothing could change that: then it is the mean over positions and prompts
    of the upscaled features from which the mask decoder makes its masks.

    Args:
        network: a `PromptedNetwork`, `PromptFreeNetwork` or `PromptedDecoder`, in evaluation mode; from now on it tells
            which case it decodes.

    Attributes:
        text: what the vector is, for people.
        width: C.

    Raises:
        ValueError: a frozen image encoder with a mask decoder that has no features of this kind.
    """

    def __init__(self, network: Any) -> None:
        segmenter = segmenter_of(network)
        self._row = 0
        self._found: dict[int, list[Tensor]] = {}
        if image_encoder_trains(segmenter):
            self.text = "image embedding, mean over positions"
            with torch.no_grad():
                image = probe_image(segmenter).to(next(segmenter.parameters()).device)
                self.width = pooled(segmenter.embed(image)).shape[1]
            network.on_case = self._keep_embedding
            return
        found = mask_features(segmenter)
        if found is None:
            msg = (
                "mitigation 'laftr' with a frozen image encoder reads the features from which the mask decoder makes "
                f"its masks, but that of {type(segmenter).__name__} has no `output_upscaling`: train the image encoder "
                "(lora_prompted, full_finetune), or take another method"
            )
            raise ValueError(msg)
        self.text = "upscaled features of the mask decoder, mean over positions"
        module, self.width = found
        network.on_case = self._next
        module.register_forward_hook(self._keep_features)

    def take(self) -> Tensor | None:
        """Vectors (B, C) of the last batch, once; None when nothing was decoded with gradients."""
        found, self._found = self._found, {}
        if not found:
            return None
        vectors = (torch.cat(found[row]) for row in sorted(found))
        return torch.stack([rows.sum(0) / max(len(rows), 1) for rows in vectors])  # 0 where there was no prompt

    def _keep_embedding(self, row: int, embedding: ImageEmbedding) -> None:
        if torch.is_grad_enabled():
            self._found[row] = [pooled(embedding)]

    def _next(self, row: int, embedding: ImageEmbedding) -> None:
        self._row = row
        if torch.is_grad_enabled():
            self._found[row] = [embedding.features.new_zeros(0, self.width, dtype=torch.float32)]

    def _keep_features(self, _: nn.Module, __: tuple[Any, ...], features: Tensor) -> None:
        if torch.is_grad_enabled() and self._row in self._found and features.shape[1] == self.width:
            self._found[self._row].append(features.float().flatten(2).mean(2))
