"""SAM (Kirillov et al., "Segment Anything", ICCV 2023) through the segment-anything package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding, PromptableSegmenter, refuse_texts
from fairmedfm_monai.networks.segmenters.sam_builder import GEOMETRIES, TINY, build_sam
from fairmedfm_monai.networks.segmenters.sam_positions import resize_input
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource, fill_weights, resolve_weights, seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Logit of a binary mask given as a prompt: as sure as SAM's own low-resolution masks commonly are.
MASK_LOGIT = 10.0
_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
SOURCES = {
    variant: WeightSource(
        names=(name,),
        page="https://github.com/facebookresearch/segment-anything",
        url=_URL + name,
        sha256={name: digest},
    )
    for variant, name, digest in (
        ("vit_b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
        ("vit_l", "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
        ("vit_h", "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    )
}


class SamCore(PromptableSegmenter):
    """A segment-anything ``Sam`` as a promptable segmenter; parameter names are SAM's own.

    ``embed`` and ``decode`` follow segment-anything's ``SamPredictor`` step by step: images are rounded to 8 bit and
    resized by PIL so that the long side fills the input, normalised, then padded right and below; coordinates are
    multiplied by new size / old size and shifted by half a pixel in the prompt encoder; a padding point is appended to
    points that come without a box. Prompts of different make-up (number of points, box or not) are decoded in separate
    calls, because padding tokens would change the masks.

    Args:
        sam: any ``segment_anything.modeling.Sam``, e.g. of :func:`build_sam`.
        multimask: True = best of the three masks by predicted IoU, False = the single mask token, None (default) =
            True for one lone point, which is ambiguous, and False otherwise, as SAM's authors recommend.
    """

    def __init__(self, sam: Sam, *, multimask: bool | None = None) -> None:
        spec = _input_spec(sam.image_encoder.img_size, sam.pixel_mean, sam.pixel_std)
        super().__init__(spatial_dims=2, input_spec=spec)
        self.image_encoder = sam.image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.register_buffer("pixel_mean", sam.pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.clone(), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.multimask = multimask

    def resize(self, image_size: int) -> None:
        """Change the edge of the input in pixels; see :func:`resize_input`."""
        resize_input(self, image_size)
        self._input_spec = _input_spec(image_size, self.pixel_mean, self.pixel_std)

    def embed(self, image: Tensor) -> ImageEmbedding:
        """Encode images; see :meth:`PromptableSegmenter.embed`.

        Raises:
            ValueError: if ``image`` is not (B, 3, H, W).
        """
        check_image(image)
        resized = self.preprocess(image)
        features = self.image_encoder(self._pad(resized))
        return ImageEmbedding(features, _size(image), _size(resized))

    def preprocess(self, image: Tensor) -> Tensor:
        """Resize (B, 3, H, W) in 0..255 so that the long side is ``input_spec.size``, and normalise."""
        resize = ResizeLongestSide(self.input_spec.size)
        arrays = [resize.apply_image(array) for array in to_uint8(image)]
        stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.pixel_mean)
        return (stacked - self.pixel_mean) / self.pixel_std

    def corner(self, input_size: tuple[int, ...]) -> tuple[int, int]:
        """Row and column of the model's input where the resized image begins; the rest of the input is zero."""
        return 0, 0

    def _pad(self, resized: Tensor) -> Tensor:
        """Put (B, C, h, w) at its place in the square input."""
        size, (top, left) = self.input_spec.size, self.corner(_size(resized))
        height, width = _size(resized)
        return F.pad(resized, (left, size - left - width, top, size - top - height))

    def scale_coords(self, coords: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Map x, y of the original image to the model's input frame (SAM's rule: factor new size / old size)."""
        top, left = self.corner(embedding.input_size)
        (height, width), (new_height, new_width) = embedding.original_size, embedding.input_size
        factor = torch.tensor([new_width / width, new_height / height], dtype=torch.float64)
        return (coords.detach().cpu().double() * factor + torch.tensor([left, top])).float()

    def decode_low_res(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`decode`, but with logits (B, P, h, w) at a quarter of the token size, fit for ``masks``.

        Raises:
            ValueError: if shapes do not fit, a label is unknown, a box lacks a corner, or texts are given.
        """
        refuse_texts(self, texts)
        check_prompts(embedding, coords, labels)
        coords, labels = self.scale_coords(coords, embedding), labels.detach().cpu().long()
        features = embedding.features
        height, width = self.prompt_encoder.mask_input_size
        low_res = torch.full((*labels.shape[:2], height, width), NO_PROMPT, device=features.device)
        iou = torch.zeros(labels.shape[:2], device=features.device)
        for image in range(len(labels)):
            for rows, points, boxes in _same_make_up(coords[image], labels[image], has_mask=masks is not None):
                prior = None if masks is None else masks[image, rows.to(masks.device)][:, None].to(features)
                result = self._predict(features[image : image + 1], points, boxes, prior)
                low_res[image, rows.to(low_res.device)] = result[0].to(low_res)
                iou[image, rows.to(iou.device)] = result[1].to(iou)
        return low_res, iou

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Low-resolution logits (B, P, h, w) to the original image (B, P, H, W), the padding cut away."""
        size = self.input_spec.size
        logits = F.interpolate(low_res.float(), (size, size), mode="bilinear", align_corners=False)
        (top, left), (height, width) = self.corner(embedding.input_size), embedding.input_size
        logits = logits[..., top : top + height, left : left + width]
        return F.interpolate(logits, embedding.original_size, mode="bilinear", align_corners=False)

    def mask_input(self, masks: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Binary masks (B, P, H, W) as logits of +-``MASK_LOGIT`` at the size that SAM's mask prompts have.

        The mask is resized and padded like the image (padding is background) and averaged over each low-resolution
        pixel.
        """
        resized = F.interpolate(masks.float(), embedding.input_size, mode="bilinear", antialias=True)
        low_res = F.interpolate(self._pad(resized), self.prompt_encoder.mask_input_size, mode="area")
        return (2 * low_res - 1) * MASK_LOGIT

    def _predict(
        self, features: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode R prompts of one make-up on one image: low-resolution logits (R, h, w) and IoU (R,)."""
        device = features.device
        sparse, dense = self.prompt_encoder(
            points=None if points is None else (points[0].to(device), points[1].to(device)),
            boxes=None if boxes is None else boxes.to(device),
            masks=masks,
        )
        lone_point = points is not None and points[1].shape[1] == 1 and boxes is None and masks is None
        multimask = lone_point if self.multimask is None else self.multimask
        low_res, iou = self.mask_decoder(
            image_embeddings=features,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        best = iou.argmax(dim=1)
        rows = torch.arange(len(best), device=device)
        return low_res[rows, best], iou[rows, best]


class SamSegmenter(SamCore):
    """SAM ViT-B, L or H.

    Args:
        variant: ``vit_b``, ``vit_l`` or ``vit_h``.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        multimask: see :class:`SamCore`.
        seed: of ``random`` and ``tiny``.
        image_size: edge of the input in pixels; None = 1,024, at which the weights were trained. At another size the
            tables of positions are interpolated, see :func:`resize_input`.
        pixel_mean: subtrahend per channel of intensities 0..255; None = SAM's own.
        pixel_std: divisor per channel; None = SAM's own.

    Raises:
        ValueError: another variant, or an ``image_size`` that tokens do not fill.
    """

    def __init__(
        self,
        variant: str = "vit_b",
        weights: str | Path = "pretrained",
        *,
        multimask: bool | None = None,
        seed: int = 0,
        image_size: int | None = None,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
    ) -> None:
        if variant not in GEOMETRIES:
            msg = f"`variant` must be one of {', '.join(GEOMETRIES)}, but got {variant!r}"
            raise ValueError(msg)
        source = self.source(variant)
        path = resolve_weights(weights, source)
        geometry = TINY if weights == "tiny" else GEOMETRIES[variant]
        own = {"mean": pixel_mean, "std": pixel_std}
        normalisation = {name: values for name, values in own.items() if values is not None}
        with seeded(seed):
            sam = build_sam(**geometry, **normalisation)  # type: ignore[arg-type]
        super().__init__(sam, multimask=multimask)
        fill_weights(self, path or weights, source=source)
        if image_size is not None:
            self.resize(image_size)
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]

    @staticmethod
    def from_sam(sam: Sam, *, multimask: bool | None = None) -> SamCore:
        """Wrap a ``Sam`` of any geometry with the weights it holds."""
        return SamCore(sam, multimask=multimask)


def to_uint8(image: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Images (B, 3, H, W) in 0..255 as H x W x 3 arrays, rounded and clipped to 8 bit, the depth SAM was trained on."""
    array = image.as_subclass(Tensor).detach().float().clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    yield from np.ascontiguousarray(array.cpu().numpy())


def _input_spec(size: int, mean: Tensor, std: Tensor) -> InputSpec:
    """What SAM sees, from its buffers."""
    return InputSpec(size=size, mean=mean.flatten().tolist(), std=std.flatten().tolist(), channels=3, max_value=255.0)


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def check_image(image: Tensor) -> None:
    """ValueError unless ``image`` is (B, 3, H, W)."""
    if image.ndim != 4 or image.shape[1] != 3:
        msg = (
            f"`image` must be (B, 3, H, W) with intensities 0..255, but has shape {tuple(image.shape)}; "
            "repeat a grey channel three times (RepeatChanneld)"
        )
        raise ValueError(msg)


def check_prompts(embedding: ImageEmbedding, coords: Tensor, labels: Tensor) -> None:
    """ValueError for shapes that do not fit, an unknown label, or a box that lacks a corner."""
    batch = embedding.features.shape[0]
    if labels.ndim != 3 or coords.shape != (*labels.shape, 2) or len(labels) != batch:
        msg = (
            f"`coords` must be ({batch}, P, N, 2) and `labels` ({batch}, P, N) for {batch} embedded image(s), "
            f"but have shapes {tuple(coords.shape)} and {tuple(labels.shape)}"
        )
        raise ValueError(msg)
    unknown = set(labels.unique().tolist()) - {-1, 0, 1, 2, 3}
    if unknown:
        msg = f"`labels` may hold 1, 0, 2, 3 and -1 (object, background, two box corners, padding), not {unknown}"
        raise ValueError(msg)
    corners = (labels == 2).sum(-1), (labels == 3).sum(-1)
    if not torch.equal(*corners) or int(corners[0].max() if corners[0].numel() else 0) > 1:
        msg = "each prompt may hold one box: exactly one corner labelled 2 and one labelled 3"
        raise ValueError(msg)


def _same_make_up(
    coords: Tensor, labels: Tensor, *, has_mask: bool
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor | None]]:
    """Split the prompts of one image, (P, N, 2) and (P, N), into groups that SAM can decode in one call.

    Yields:
        row indices (R,); points as (R, n, 2) and (R, n), or None; boxes (R, 4) as x0, y0, x1, y1, or None.
    """
    is_point = (labels == 0) | (labels == 1)
    make_up = torch.stack([is_point.sum(-1), (labels == 2).sum(-1)], dim=-1)
    for n_points, n_boxes in make_up.unique(dim=0).tolist():
        if not (n_points or n_boxes or has_mask):
            continue
        rows = (make_up == torch.tensor([n_points, n_boxes])).all(-1).nonzero().flatten()
        points, boxes = None, None
        if n_points:
            chosen = is_point[rows]
            points = coords[rows][chosen].view(-1, n_points, 2), labels[rows][chosen].view(-1, n_points)
        if n_boxes:
            upper, lower = (coords[rows][labels[rows] == corner] for corner in (2, 3))
            boxes = torch.cat([upper, lower], dim=-1)
        yield rows, points, boxes
