"""SAM-Med3D (Wang et al., "SAM-Med3D: Towards General-purpose Segmentation Models for Volumetric Medical Images")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding, refuse_texts
from fairmedfm_monai.networks.segmenters.sam_med3d_decoder import UPSCALING, MaskDecoder3D, PromptEncoder3D
from fairmedfm_monai.networks.segmenters.sam_med3d_encoder import Block3D, ImageEncoder3D
from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter, VolumeSpec
from fairmedfm_monai.networks.weights import WeightSource, fill_weights, resolve_weights, seeded

IMAGE_SIZE = 128
# Millimetres; the authors resample to it before they cut the window.
SPACING = 1.5
# Logit of a binary mask given as a prompt: as sure as low-resolution masks of SAM's family commonly are.
MASK_LOGIT = 10.0
# The axis with the decoder's geometry, which FastSAM3D shares.
PUBLISHED_DECODER = {"channels": 384, "mlp_width": 2048}
TINY_DECODER = {"channels": 48, "mlp_width": 64}
TINY_PATCH = 32
SOURCES = {
    "turbo": WeightSource(
        names=("sam_med3d_turbo.pth",),
        page="https://github.com/uni-medical/SAM-Med3D",
        url="https://huggingface.co/blueyo0/SAM-Med3D/resolve/main/sam_med3d_turbo.pth",
    )
}


class Sam3DCore(VolumeSegmenter):
    """What SAM-Med3D and FastSAM3D share: everything but the image encoder. Parameter names are the published ones.

    ``embed`` takes one window of 128^3 voxels of 1.5 mm (axes R, A, S) in the file's own intensities, and normalises it
    by mean and standard deviation of its voxels above 0, as the authors do; where the window reaches beyond the volume
    it must hold 0. Prompts are points; boxes cannot be encoded. Prompts with different numbers of points are decoded in
    separate calls, because padding tokens would change the masks. Of the decoder's masks the first is used, never the
    three alternatives, as in the authors' evaluation.

    Args:
        image_encoder: maps (B, 1, 128, 128, 128) to (B, channels, G, G, G).
        channels: of the image embedding, the prompts and the decoder.
        mlp_width: hidden width of the decoder's MLPs.
    """

    accepts = frozenset({"point", "mask"})

    def __init__(self, image_encoder: ImageEncoder3D, *, channels: int, mlp_width: int) -> None:
        size = image_encoder.img_size
        super().__init__(volume_spec=VolumeSpec(window=(size, size, size), axcodes="RAS", spacing=SPACING))
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder3D(channels, grid=image_encoder.grid, image_size=size)
        self.mask_decoder = MaskDecoder3D(channels, mlp_width=mlp_width)

    def embed(self, image: Tensor) -> ImageEmbedding:
        """Encode windows (B, 1, 128, 128, 128) of raw intensities.

        Raises:
            ValueError: if ``image`` has another shape.
        """
        window = self.volume_spec.window
        if tuple(image.shape[1:]) != (1, *window):
            msg = f"`image` must be windows (B, 1, {', '.join(map(str, window))}), but has shape {tuple(image.shape)}"
            raise ValueError(msg)
        image = image.as_subclass(Tensor).to(self.image_encoder.pos_embed.device)
        features = self.image_encoder(z_normalise(image).to(self.image_encoder.pos_embed.dtype))
        return ImageEmbedding(features, window, window)

    def decode_low_res(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`decode`, but with logits (B, P, m, m, m) of 32^3, fit for ``masks``.

        Raises:
            ValueError: if shapes do not fit, a label is unknown, or a box or texts are given.
        """
        refuse_texts(self, texts)
        check_points(self, embedding, coords, labels)
        features = embedding.features
        low_res = torch.full((*labels.shape[:2], *self._low_res_size()), NO_PROMPT, device=features.device)
        iou = torch.zeros(labels.shape[:2], device=features.device)
        for image in range(len(labels)):
            for rows, points in _same_count(coords[image], labels[image], has_mask=masks is not None):
                prior = None if masks is None else masks[image, rows.to(masks.device)][:, None]
                result = self._predict(features[image : image + 1], points, prior, count=len(rows))
                low_res[image, rows.to(low_res.device)] = result[0].to(low_res)
                iou[image, rows.to(iou.device)] = result[1].to(iou)
        return low_res, iou

    def _predict(
        self, features: Tensor, points: tuple[Tensor, Tensor] | None, masks: Tensor | None, *, count: int
    ) -> tuple[Tensor, Tensor]:
        """Decode ``count`` prompts of one make-up on one window: low-resolution logits (R, m, m, m) and IoU (R,)."""
        if points is not None:
            points = points[0].to(features), points[1].to(features.device)
        # The authors' first pass feeds a mask of zeros, not SAM's embedding of "no mask".
        masks = features.new_zeros(count, 1, *self._low_res_size()) if masks is None else masks.to(features)
        sparse, dense = self.prompt_encoder(points, masks)
        logits, iou = self.mask_decoder(features, self.prompt_encoder.dense_encoding(), sparse, dense)
        return logits[:, 0], iou[:, 0]

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Low-resolution logits (B, P, m, m, m) to the window, trilinear."""
        return F.interpolate(low_res.float(), embedding.original_size, mode="trilinear", align_corners=False)

    def mask_input(self, masks: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Binary masks (B, P, 128, 128, 128) as logits of +-``MASK_LOGIT``, averaged over each low-resolution voxel."""
        return (2 * F.interpolate(masks.float(), self._low_res_size(), mode="area") - 1) * MASK_LOGIT

    def _low_res_size(self) -> tuple[int, int, int]:
        edge = UPSCALING * self.image_encoder.grid
        return edge, edge, edge


class SamMed3dSegmenter(Sam3DCore):
    """SAM-Med3D.

    Args:
        variant: ``turbo``, the weights that the authors recommend.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had or do not fit.
    """

    def __init__(self, variant: str = "turbo", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        if variant not in SOURCES:
            msg = f"`variant` must be one of {', '.join(SOURCES)}, but got {variant!r}"
            raise ValueError(msg)
        source = self.source(variant)
        path = resolve_weights(weights, source)
        with seeded(seed):
            super().__init__(_build_encoder(tiny=weights == "tiny"), **decoder_geometry(weights))
        fill_weights(self, path or weights, source=source)
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]


def decoder_geometry(weights: str | Path) -> dict[str, int]:
    """Channels and MLP width of the decoder for a value of ``weights``."""
    return TINY_DECODER if weights == "tiny" else PUBLISHED_DECODER


def _build_encoder(*, tiny: bool) -> ImageEncoder3D:
    """12 blocks of 768 channels; all but every third pad their 8^3 tokens to windows of 14^3."""
    patch, width, depth, heads, windowed = (TINY_PATCH, 48, 2, 2, 6) if tiny else (16, 768, 12, 12, 14)
    every = depth if tiny else 3
    grid = IMAGE_SIZE // patch
    windows = [grid if (index + 1) % every == 0 else windowed for index in range(depth)]
    return ImageEncoder3D(
        [Block3D(width, heads, grid=grid, window=window) for window in windows],
        image_size=IMAGE_SIZE,
        patch_size=patch,
        width=width,
        channels=decoder_geometry("tiny" if tiny else "random")["channels"],
    )


def z_normalise(windows: Tensor) -> Tensor:
    """(B, ...) minus mean, over standard deviation of each window's voxels above 0.

    A window with fewer than two such voxels is normalised by all of its voxels, a constant one becomes 0: NaN never
    comes of finite intensities.
    """
    normalised = torch.empty(windows.shape, device=windows.device)
    for index, window in enumerate(windows.float()):
        inside = window[window > 0]
        values = inside if inside.numel() > 1 else window
        deviation = values.std()
        normalised[index] = (window - values.mean()) / torch.where(deviation > 0, deviation, 1.0)
    return normalised


def check_points(network: VolumeSegmenter, embedding: ImageEmbedding, coords: Tensor, labels: Tensor) -> None:
    """Make sure that ``coords`` (B, P, N, 3) and ``labels`` (B, P, N) are points on B embedded windows.

    Raises:
        ValueError: naming the argument; for the corners of a box, what to give instead.
    """
    batch = embedding.features.shape[0]
    if labels.ndim != 3 or coords.shape != (*labels.shape, 3) or len(labels) != batch:
        msg = (
            f"`coords` must be ({batch}, P, N, 3) and `labels` ({batch}, P, N) for {batch} embedded window(s), "
            f"but have shapes {tuple(coords.shape)} and {tuple(labels.shape)}"
        )
        raise ValueError(msg)
    given = set(labels.unique().tolist())
    if given & {2, 3}:
        msg = (
            f"{type(network).__name__} takes no boxes (its weights have no embedding for their corners); "
            "give points instead, e.g. the prompt kind center"
        )
        raise ValueError(msg)
    if given - {-1, 0, 1}:
        msg = f"`labels` may hold 1, 0 and -1 (object, background, padding), not {given - {-1, 0, 1}}"
        raise ValueError(msg)


def _same_count(
    coords: Tensor, labels: Tensor, *, has_mask: bool
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor] | None]]:
    """Split the prompts of one window, (P, N, 3) and (P, N), into groups with one number of points.

    Yields:
        row indices (R,); points as (R, n, 3) and (R, n), or None for rows with a mask alone.
    """
    coords, labels = coords.detach().cpu(), labels.detach().cpu().long()
    is_point = labels >= 0
    counts = is_point.sum(-1)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        chosen = is_point[rows]
        if count:
            yield rows, (coords[rows][chosen].view(-1, count, 3), labels[rows][chosen].view(-1, count))
        elif has_mask:
            yield rows, None
