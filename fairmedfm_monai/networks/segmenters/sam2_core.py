"""SAM 2 on images, with whatever size and weights, through transformers' modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import Sam2VideoModel

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding, PromptableSegmenter, refuse_texts
from fairmedfm_monai.networks.segmenters.sam import MASK_LOGIT, check_image, check_prompts, to_uint8
from fairmedfm_monai.networks.segmenters.sam2_tracking import track
from fairmedfm_monai.networks.spec import InputSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Mask prompts are clamped to this range, as the authors' predictor clamps the masks it hands out for the next step.
MASK_RANGE = 32.0


@dataclass(frozen=True)
class Sam2Embedding(ImageEmbedding):
    """Embedding of an image without memory.

    Args:
        high_res: the decoder's two inputs of high resolution, (B, C / 8, 4 h, 4 w) and (B, C / 4, 2 h, 2 w).
    """

    high_res: tuple[Tensor, Tensor]


class Features(NamedTuple):
    """What the image encoder makes of B images: ``top`` (B, C, h, w) and ``position`` of the same shape."""

    top: Tensor
    position: Tensor
    high_res: tuple[Tensor, Tensor]


class Decoded(NamedTuple):
    """What the decoder says of R prompts.

    Args:
        low_res: (R, h, w) mask logits.
        iou: (R,) predicted IoU.
        token: (R, C) the decoder's output token of the mask, from which object pointers are made.
        score: (R,) logit of whether the object is there at all.
    """

    low_res: Tensor
    iou: Tensor
    token: Tensor
    score: Tensor


class Sam2Core(PromptableSegmenter):
    """transformers' ``Sam2VideoModel`` as a promptable segmenter; images and memory share one set of weights.

    ``embed`` and ``decode`` follow the authors' ``SAM2ImagePredictor``: images are rounded to 8 bit, scaled to [0, 1],
    squashed to the square input (bilinear, antialiased) and normalised; coordinates are divided by the image's size;
    a box is two points labelled 2 and 3; a padding point is always appended; low-resolution masks are resized to the
    image in one step. :meth:`track` follows their ``SAM2VideoPredictor``.

    Args:
        sam2: any ``Sam2VideoModel``, e.g. of :func:`build_sam2`.
        multimask: True = best of the three masks by predicted IoU, False = the single mask token, None (default) =
            True for one lone point, which is ambiguous, and False otherwise.
        stability: where the single mask token is asked for and its mask is unstable (few pixels keep their side when
            the threshold moves by 0.05), take the best of the three others. ``track`` always does, as the authors'.
    """

    tracks = True
    # Where training finds its parts.
    parts: ClassVar[dict[str, str]] = {
        "image_encoder": "sam2.vision_encoder",
        "prompt_encoder": "sam2.prompt_encoder",
        "mask_decoder": "sam2.mask_decoder",
    }

    def __init__(self, sam2: Sam2VideoModel, *, multimask: bool | None = None, stability: bool = False) -> None:
        spec = InputSpec(size=sam2.config.image_size, mean=MEAN, std=STD, channels=3, max_value=1.0)
        super().__init__(spatial_dims=2, input_spec=spec)
        self.sam2 = sam2
        self.register_buffer("pixel_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.multimask = multimask
        self.stability = stability

    def embed(self, image: Tensor) -> Sam2Embedding:
        """Encode images; see :meth:`PromptableSegmenter.embed`.

        Raises:
            ValueError: if ``image`` is not (B, 3, H, W).
        """
        check_image(image)
        features = self.encode(self.preprocess(image))
        size = self.input_spec.size
        top = features.top + self.sam2.no_memory_embedding.view(1, -1, 1, 1)
        return Sam2Embedding(top, (int(image.shape[-2]), int(image.shape[-1])), (size, size), features.high_res)

    def preprocess(self, image: Tensor) -> Tensor:
        """Squash (B, 3, H, W) in 0..255 to the square input, antialiased, and normalise."""
        rounded = image.as_subclass(Tensor).detach().float().clamp(0, 255).round().to(self.pixel_mean.device) / 255
        size = (self.input_spec.size, self.input_spec.size)
        return self._normalise(F.interpolate(rounded, size, mode="bilinear", align_corners=False, antialias=True))

    def preprocess_frame(self, image: Tensor) -> Tensor:
        """As :meth:`preprocess` for frames that are tracked: bicubic in 8 bit by PIL, as the authors read videos."""
        size = (self.input_spec.size, self.input_spec.size)
        arrays = [
            np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC)) for array in to_uint8(image)
        ]
        stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.pixel_mean.device)
        return self._normalise(stacked.float() / 255)

    def _normalise(self, image: Tensor) -> Tensor:
        return ((image - self.pixel_mean.float()) / self.pixel_std.float()).to(self.pixel_mean.dtype)

    def encode(self, pixels: Tensor) -> Features:
        """Run the image encoder on preprocessed images (B, 3, S, S); nothing of a memory is added."""
        output = self.sam2.vision_encoder(pixels, return_dict=True)
        first, second, top = output.fpn_hidden_states
        decoder = self.sam2.mask_decoder
        return Features(top, output.fpn_position_encoding[-1], (decoder.conv_s0(first), decoder.conv_s1(second)))

    def scale_coords(self, coords: Tensor, original_size: Sequence[int]) -> Tensor:
        """Map x, y of the original image to the square input: factor input size / image size."""
        height, width = original_size
        factor = self.input_spec.size / torch.tensor([width, height], dtype=torch.float64)
        return (coords.detach().cpu().double() * factor).float()

    def decode_low_res(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`decode`, but with logits (B, P, h, w) at a quarter of the input size, fit for ``masks``.

        Raises:
            ValueError: if shapes do not fit, a label is unknown, a box lacks a corner, or texts are given.
            TypeError: if ``embedding`` comes from another kind of model.
        """
        refuse_texts(self, texts)
        if not isinstance(embedding, Sam2Embedding):
            msg = f"`embedding` must come from {type(self).__name__}.embed, but is a {type(embedding).__name__}"
            raise TypeError(msg)
        check_prompts(embedding, coords, labels)
        coords, labels = self.scale_coords(coords, embedding.original_size), labels.detach().cpu().long()
        first, second = embedding.high_res
        decoded = [
            self.decode_rows(
                embedding.features[image : image + 1],
                (first[image : image + 1], second[image : image + 1]),
                coords[image],
                labels[image],
                None if masks is None else masks[image],
                multimask=self.multimask,
                stability=self.stability,
            )
            for image in range(len(labels))
        ]
        return torch.stack([rows.low_res for rows in decoded]), torch.stack([rows.iou for rows in decoded])

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Low-resolution logits (B, P, h, w) to the original image (B, P, H, W), in one step."""
        return F.interpolate(low_res.float(), embedding.original_size, mode="bilinear", align_corners=False)

    def mask_input(self, masks: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Binary masks (B, P, H, W) as logits of +-``MASK_LOGIT`` at the size that mask prompts have.

        The mask is squashed as the image is, antialiased, so that a low-resolution pixel holds an average.
        """
        size = self.sam2.prompt_encoder.mask_input_size
        low_res = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False, antialias=True)
        return (2 * low_res - 1) * MASK_LOGIT

    def track(
        self,
        frames: Callable[[int], Tensor],
        indices: Sequence[int],
        prompts: Mapping[int, tuple[Tensor, Tensor]],
    ) -> Iterator[tuple[int, Tensor]]:
        """Carry P objects from the prompted frames through all others by the model's memory; see :func:`track`."""
        return track(self, frames, indices, prompts)

    def decode_rows(
        self,
        top: Tensor,
        high_res: tuple[Tensor, Tensor],
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        multimask: bool | None,
        stability: bool,
    ) -> Decoded:
        """Decode R prompts on one image; those of one length together, because padding would change the masks.

        Args:
            top: (1, C, h, w), the memory or its absence added.
            high_res: as in :class:`Sam2Embedding`, of one image.
            coords: (R, N, 2) in the frame of the square input.
            labels: (R, N), -1 is left out.
            masks: (R, h, w) logits, or None.
            multimask: as for the class.
            stability: as for the class.

        Returns:
            ``NO_PROMPT``, and zero, for rows without any prompt.
        """
        rows, (height, width) = len(labels), self.sam2.prompt_encoder.mask_input_size
        whole = Decoded(
            top.new_full((rows, height, width), NO_PROMPT),
            top.new_zeros(rows),
            top.new_zeros(rows, top.shape[1]),
            top.new_zeros(rows),
        )
        given = labels >= 0
        for count in given.sum(-1).unique().tolist():
            if not count and masks is None:
                continue
            chosen = (given.sum(-1) == count).nonzero().flatten()
            kept = given[chosen]
            points = coords[chosen][kept].view(len(chosen), count, 2), labels[chosen][kept].view(len(chosen), count)
            at = chosen.to(top.device)
            prior = None if masks is None else masks[chosen.to(masks.device)].to(top)
            part = self.predict(
                top,
                high_res,
                *points,
                prior,
                multimask=(count == 1 and masks is None) if multimask is None else multimask,
                stability=stability,
            )
            for target, piece in zip(whole, part, strict=True):
                target[at] = piece.to(target)
        return whole

    def predict(
        self,
        top: Tensor,
        high_res: tuple[Tensor, Tensor],
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        multimask: bool,
        stability: bool,
    ) -> Decoded:
        """Decode R prompts of N points each; as :meth:`decode_rows`, but ``top`` may also be (R, C, h, w)."""
        count, model = len(labels), self.sam2
        sparse, dense = model.prompt_encoder(
            input_points=coords[:, None].to(top.device) if labels.shape[1] else None,
            input_labels=labels[:, None].to(top.device),
            input_boxes=None,
            input_masks=None if masks is None else masks[:, None].clamp(-MASK_RANGE, MASK_RANGE),
        )
        sparse = dense.new_zeros(count, 1, 0, dense.shape[1]) if sparse is None else sparse
        low_res, iou, tokens, score = self._decoder(
            top.expand(count, -1, -1, -1), high_res, sparse, dense, multimask=multimask, stability=stability
        )
        best, rows = iou[:, 0].argmax(dim=-1), torch.arange(count, device=iou.device)
        return Decoded(low_res[rows, 0, best], iou[rows, 0, best], tokens[rows, 0, best], score[:, 0, 0])

    def token_masks(self, embedding: Sam2Embedding) -> Tensor:
        """Low-resolution logits (B, T, h, w) of all T mask tokens, the single one first, without any prompt."""
        top = embedding.features
        _, dense = self.sam2.prompt_encoder(input_points=None, input_labels=None, input_boxes=None, input_masks=None)
        sparse = dense.new_zeros(len(top), 1, 0, dense.shape[1])
        # transformers' decoder gives either the first mask or the others.
        masks = [
            self._decoder(top, embedding.high_res, sparse, dense, multimask=others, stability=False)[0]
            for others in (False, True)
        ]
        return torch.cat(masks, dim=2)[:, 0]

    def _decoder(
        self,
        top: Tensor,
        high_res: tuple[Tensor, Tensor],
        sparse: Tensor,
        dense: Tensor,
        *,
        multimask: bool,
        stability: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masks (R, 1, M, h, w), IoU (R, 1, M), tokens (R, 1, M, C) and presence (R, 1, 1) of R encoded prompts."""
        self.sam2.mask_decoder.dynamic_multimask_via_stability = stability
        result: tuple[Tensor, Tensor, Tensor, Tensor] = self.sam2.mask_decoder(
            image_embeddings=top,
            image_positional_embeddings=self.sam2.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=[level.expand(len(top), -1, -1, -1) for level in high_res],
        )
        return result
