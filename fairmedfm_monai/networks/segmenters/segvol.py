"""SegVol (Du et al., "SegVol: Universal and interactive volumetric medical image segmentation", NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import ViT
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT, ImageEmbedding
from fairmedfm_monai.networks.segmenters.segvol_decoder import MaskDecoder, PromptEncoder, TextEncoder
from fairmedfm_monai.networks.segmenters.segvol_intensity import stretch_foreground
from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter, VolumeSpec
from fairmedfm_monai.networks.weights import (
    State,
    WeightsError,
    WeightSource,
    load_checked,
    read_checkpoint,
    resolve_weights,
    seeded,
)

WINDOW = (32, 256, 256)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "v1": {"dim": 768, "depth": 12, "heads": 12, "mlp": 3072, "patch": (4, 16, 16), "decoder_mlp": 2048, "text": {}}
}
# Same input and code; 4 x 8 x 8 tokens instead of 8 x 16 x 16, and masks of 16 x 32 x 32.
TINY: dict[str, Any] = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp": 64,
    "patch": (8, 32, 32),
    "decoder_mlp": 64,
    "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
}
SOURCES = {
    "v1": WeightSource(
        names=("SegVol_v1.pth", "SegVol_pytorch_model.bin"),
        page="https://huggingface.co/BAAI/SegVol",
        repo="BAAI/SegVol",
        repo_files=("SegVol_v1.pth", "pytorch_model.bin"),
    )
}
# Prompts decoded in one call: each takes about 0.15 GB at the resolution of the masks.
_ROWS = 4


class SegVolSegmenter(VolumeSegmenter):
    """SegVol: points, boxes and names of structures on CT, in windows of 32 x 256 x 256 voxels (z, y, x).

    :meth:`prepare` normalises a whole volume, ``embed`` encodes windows of it; the model was trained on the whole
    volume shrunk to one window as well as on windows of full resolution ("zoom-out-zoom-in"). Points, box and text of
    one prompt are tokens of one decoder call; prompts of different make-up are decoded apart, because padding tokens
    would change the masks. The first mask token is read. Low-resolution masks have 32 x 64 x 64 voxels.

    Args:
        variant: ``v1``, the only one published.
        weights: ``pretrained``, a path (``SegVol_v1.pth`` or ``pytorch_model.bin``), ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had or do not fit, e.g. because they hold the image encoder alone.
    """

    accepts = frozenset({"point", "box", "text"})

    def __init__(self, variant: str = "v1", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        if variant not in GEOMETRIES:
            msg = f"`variant` must be one of {', '.join(GEOMETRIES)}, but got {variant!r}"
            raise ValueError(msg)
        path = resolve_weights(weights, self.source(variant))
        super().__init__(volume_spec=VolumeSpec(window=WINDOW, axcodes="SAR", spacing=None, zoom=True))
        with seeded(seed):
            self._build(**(TINY if weights == "tiny" else GEOMETRIES[variant]))
        if path is not None:
            load_checked(self, read_segvol(path), origin=str(path))
        self.eval()

    def _build(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        mlp: int,
        patch: tuple[int, int, int],
        decoder_mlp: int,
        text: dict[str, Any],
    ) -> None:
        depths, heights, widths = (edge // step for edge, step in zip(WINDOW, patch, strict=True))
        grid = (depths, heights, widths)
        self.image_encoder = build_image_encoder(dim=dim, depth=depth, heads=heads, mlp=mlp, patch=patch)
        self.prompt_encoder = PromptEncoder(dim, window=WINDOW, grid=grid)
        self.mask_decoder = MaskDecoder(dim, grid=grid, mlp=decoder_mlp)
        self.text_encoder = TextEncoder(dim, text)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]

    def prepare(self, volume: Tensor) -> Tensor:
        """Clip the file's intensities (1, Z, Y, X) to the bounds of the foreground and stretch them to [0, 1].

        See :func:`~fairmedfm_monai.networks.segmenters.segvol_intensity.stretch_foreground`. Padding afterwards is 0.
        """
        return stretch_foreground(volume)

    def embed(self, image: Tensor) -> ImageEmbedding:
        """Encode windows (B, 1, 32, 256, 256) of prepared volumes, intensities 0..1; axes z, y, x.

        Raises:
            ValueError: for another shape.
        """
        if image.ndim != 5 or tuple(image.shape[1:]) != (1, *WINDOW):
            msg = (
                f"`image` must be (B, 1, {', '.join(map(str, WINDOW))}), windows of a prepared volume, but has shape "
                f"{tuple(image.shape)}; SegVol's decoder is made for exactly this window"
            )
            raise ValueError(msg)
        weight = self.image_encoder.norm.weight
        tokens, _ = self.image_encoder(image.as_subclass(Tensor).to(weight))
        features = tokens.transpose(1, 2).unflatten(2, self.prompt_encoder.grid)
        return ImageEmbedding(features, WINDOW, WINDOW)

    def decode_low_res(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`decode`, but with logits (B, P, 32, 64, 64).

        Args:
            embedding: of B windows.
            coords: (B, P, N, 3) voxel-centre indices z, y, x in the window.
            labels: (B, P, N); N may be 0 where texts are given.
            masks: None; SegVol takes no mask prompts.
            texts: P names, e.g. ``liver``, put into "A computerized tomography of a liver."; "" = no text.

        Raises:
            ValueError: if shapes do not fit, a label is unknown, a box lacks a corner, a text is too long, or masks
                are given.
        """
        if masks is not None:
            self.mask_input(masks, embedding)  # refuses
        _check_prompts(embedding, coords, labels, texts)
        features = embedding.features
        words = [""] * labels.shape[1] if texts is None else list(texts)
        coords, labels = coords.to(features.device, torch.float32), labels.to(features.device, torch.long)
        low_res = features.new_full((*labels.shape[:2], *(4 * n for n in features.shape[2:])), NO_PROMPT)
        iou = features.new_zeros(labels.shape[:2])
        encoding = self.prompt_encoder.dense_encoding().to(features)
        for image, source in enumerate(features + self.prompt_encoder.no_mask()):
            for rows in _same_make_up(labels[image], words):
                logits, score = self._predict(
                    source[None], encoding, coords[image, rows], labels[image, rows], [words[row] for row in rows]
                )
                low_res[image, rows], iou[image, rows] = logits.to(low_res), score.to(iou)
        return low_res, iou

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Low-resolution logits (B, P, 32, 64, 64) to the window (B, P, 32, 256, 256)."""
        return F.interpolate(low_res.float(), embedding.original_size, mode="trilinear", align_corners=False)

    def _predict(
        self, source: Tensor, encoding: Tensor, coords: Tensor, labels: Tensor, words: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Decode R prompts (R, N, 3), (R, N) of one make-up on one image: logits (R, d, h, w) and IoU (R,)."""
        is_point = (labels == 0) | (labels == 1)
        points, corners = None, None
        if is_point.any():
            points = coords[is_point].view(len(coords), -1, 3), labels[is_point].view(len(coords), -1)
        if (labels == 2).any():
            corners = torch.stack([coords[labels == corner] for corner in (2, 3)], dim=1)
        text = self.text_encoder(words) if words[0] else None
        tokens = self.prompt_encoder(points, corners, text).to(source)
        logits, iou = self.mask_decoder(source, encoding, tokens, text)
        return logits[:, 0], iou[:, 0]

    def token_masks(self, embedding: ImageEmbedding) -> Tensor:
        """Logits (B, M, 32, 64, 64) of all M mask tokens without any prompt, for training without prompts."""
        features = embedding.features
        encoding = self.prompt_encoder.dense_encoding().to(features)
        nothing = features.new_zeros(1, 0, features.shape[1])
        sources = (features + self.prompt_encoder.no_mask()).split(1)
        return torch.cat([self.mask_decoder(source, encoding, nothing)[0] for source in sources])


def build_image_encoder(*, dim: int, depth: int, heads: int, mlp: int, patch: tuple[int, int, int]) -> ViT:
    """MONAI's ViT as the checkpoint has it.

    Args:
        dim: channels.
        depth: number of blocks.
        heads: number of attention heads.
        mlp: hidden width of the blocks' MLPs.
        patch: voxels of a token.
    """
    encoder = ViT(
        in_channels=1,
        img_size=WINDOW,
        patch_size=patch,
        hidden_size=dim,
        mlp_dim=mlp,
        num_layers=depth,
        num_heads=heads,
        proj_type="perceptron",
    )
    for block in encoder.blocks:
        # Newer MONAI normalises before a cross-attention that this ViT has not: unused, and not in the checkpoint.
        block.norm_cross_attn = nn.Identity()
        # MONAI's own option, which its ViT does not pass on: the same attention without 2,048 x 2,048 matrices.
        block.attn.use_flash_attention = True
    return encoder


def read_segvol(path: Path) -> State:
    """Weights of a published file by the names of :class:`SegVolSegmenter`.

    Raises:
        WeightsError: if the file cannot be read or holds the pre-trained image encoder alone.
    """
    state = read_checkpoint(path)
    renamed = rename_segvol(state)
    parts = {name.split(".", 1)[0] for name in renamed}
    if "image_encoder" in parts and "mask_decoder" not in parts:
        msg = (
            f"{path} holds SegVol's pre-trained image encoder alone ({len(state)} tensors; no prompt encoder, decoder "
            "and text encoder), which segments nothing; give SegVol_v1.pth or pytorch_model.bin"
        )
        raise WeightsError(msg)
    return renamed


def rename_segvol(state: Mapping[str, Tensor]) -> State:
    """Published names (``SegVol_v1.pth``, ``pytorch_model.bin``, ``ViT_pretrain.ckpt``) to SegVolSegmenter's.

    Prefixes go; so does ``text_model.``, which newer transformers have dropped, and its table of position numbers,
    which is no weight.
    """
    renamed = {}
    for name, tensor in state.items():
        inner = name.removeprefix("module.").removeprefix("model.")
        if inner.startswith("encoder."):  # of the pre-training, where there was no other
            inner = "image_" + inner
        if not inner.endswith("embeddings.position_ids"):
            renamed[inner.replace("clip_text_model.text_model.", "clip_text_model.")] = tensor
    return renamed


def _check_prompts(embedding: ImageEmbedding, coords: Tensor, labels: Tensor, texts: Sequence[str] | None) -> None:
    batch = embedding.features.shape[0]
    if labels.ndim != 3 or coords.shape != (*labels.shape, 3) or len(labels) != batch:
        msg = (
            f"`coords` must be ({batch}, P, N, 3) and `labels` ({batch}, P, N) for {batch} embedded window(s), "
            f"but have shapes {tuple(coords.shape)} and {tuple(labels.shape)}"
        )
        raise ValueError(msg)
    if texts is not None and len(texts) != labels.shape[1]:
        msg = f"`texts` must hold one text for each of {labels.shape[1]} prompts, but holds {len(texts)}"
        raise ValueError(msg)
    unknown = set(labels.unique().tolist()) - {-1, 0, 1, 2, 3}
    if unknown:
        msg = f"`labels` may hold 1, 0, 2, 3 and -1 (object, background, two box corners, padding), not {unknown}"
        raise ValueError(msg)
    lower, upper = (labels == 2).sum(-1), (labels == 3).sum(-1)
    if not torch.equal(lower, upper) or bool((lower > 1).any()):
        msg = "each prompt may hold one box: exactly one corner labelled 2 and one labelled 3"
        raise ValueError(msg)


def _same_make_up(labels: Tensor, words: Sequence[str]) -> Iterator[list[int]]:
    """Rows of labels (P, N) that can be decoded in one call, at most ``_ROWS``; rows without any prompt are left out.

    Rows agree in the number of points and in having a box and a text.
    """
    groups: dict[tuple[int, int, bool], list[int]] = {}
    points, boxes = ((labels == 0) | (labels == 1)).sum(-1).tolist(), (labels == 2).sum(-1).tolist()
    for row, make_up in enumerate(zip(points, boxes, map(bool, words), strict=True)):
        groups.setdefault(make_up, []).append(row)
    for make_up, rows in groups.items():
        if any(make_up):
            yield from (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))
