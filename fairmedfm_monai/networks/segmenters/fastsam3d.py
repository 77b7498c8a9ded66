"""FastSAM3D (Shen et al., "FastSAM3D", MICCAI 2024, arXiv:2403.09827): SAM-Med3D with a distilled image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import WeightsError, load_checked, read_checkpoint
from fairmedfm_monai.networks.segmenters import sam_med3d
from fairmedfm_monai.networks.segmenters.sam_med3d import IMAGE_SIZE, TINY_PATCH, Sam3DCore, decoder_geometry
from fairmedfm_monai.networks.segmenters.sam_med3d_encoder import EPSILON, Attention3D, ImageEncoder3D
from fairmedfm_monai.networks.weights import State, WeightSource, resolve_weights, seeded

ENCODER = "image_encoder."
SOURCES = {
    "student": WeightSource(
        names=("FastSAM3D.pth",),
        page="https://github.com/arcadelab/FastSAM3D",
        url="https://huggingface.co/techlove/FastSAM3D/resolve/main/FastSAM3D.pth",
    )
}


class StudentBlock(nn.Module):
    """Transformer block of FastSAM3D's student.

    Quirk of the published weights: the MLP's residual starts from the **normalised** tokens, ``y = norm2(x)``, out
    ``y + mlp(y)``, and not from ``x`` as in SAM-Med3D. The student was distilled so; the usual form with the same
    weights gives something else.

    Args:
        width: channels of the tokens.
        heads: attention heads; 0 = no attention, as in the first two blocks.
        grid: tokens along each axis.
    """

    def __init__(self, width: int, heads: int, *, grid: int) -> None:
        super().__init__()
        if heads:
            self.norm1 = nn.LayerNorm(width, eps=EPSILON)
            self.attn = Attention3D(width, heads, grid=grid, window=grid)
        self.has_attention = heads > 0
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = MLPBlock(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (B, G, G, G, C) tokens."""
        if self.has_attention:
            tokens = tokens + self.attn(self.norm1(tokens))
        tokens = self.norm2(tokens)
        return tokens + self.mlp(tokens)


class FastSam3dSegmenter(Sam3DCore):
    """FastSAM3D: the student encoder with SAM-Med3D's prompt encoder and mask decoder.

    Two forms of the file exist and both are read: the whole network (``image_encoder.*``, ``prompt_encoder.*``,
    ``mask_decoder.*``), and the bare student encoder, which takes the other two parts from SAM-Med3D's file. The
    weights of the authors' dilated attention have the same names and shapes; this is their plain attention.

    The authors' evaluation script does not resample, because their preparation of the data has done so (1.5 mm); here
    volumes are resampled as for SAM-Med3D.

    Args:
        variant: ``student``, the only one published.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        sam_med3d_weights: SAM-Med3D's file (``pretrained`` or a path); read only beside a bare student encoder.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        variant: str = "student",
        weights: str | Path = "pretrained",
        *,
        sam_med3d_weights: str | Path = "pretrained",
        seed: int = 0,
    ) -> None:
        if variant not in SOURCES:
            msg = f"`variant` must be one of {', '.join(SOURCES)}, but got {variant!r}"
            raise ValueError(msg)
        path = resolve_weights(weights, self.source(variant))
        state, origin = ({}, "") if path is None else _read(path, sam_med3d_weights)
        with seeded(seed):
            super().__init__(_build_encoder(tiny=weights == "tiny"), **decoder_geometry(weights))
        if path is not None:
            load_checked(self, state, origin=origin)
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]


def _build_encoder(*, tiny: bool) -> ImageEncoder3D:
    """6 blocks of 768 channels with 6 heads; the first two have no attention."""
    patch, width, heads = (TINY_PATCH, 48, (0, 2)) if tiny else (16, 768, (0, 0, 6, 6, 6, 6))
    grid = IMAGE_SIZE // patch
    return ImageEncoder3D(
        [StudentBlock(width, count, grid=grid) for count in heads],
        image_size=IMAGE_SIZE,
        patch_size=patch,
        width=width,
        channels=decoder_geometry("tiny" if tiny else "random")["channels"],
    )


def is_bare_encoder(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint holds an image encoder alone, without the prefix it has in the whole network."""
    return "patch_embed.proj.weight" in state


def join_student(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> State:
    """A bare student encoder with the prompt encoder and mask decoder of SAM-Med3D's checkpoint."""
    rest = {name: value for name, value in teacher.items() if not name.startswith(ENCODER)}
    return {**{ENCODER + name: value for name, value in student.items()}, **rest}


def _read(path: Path, sam_med3d_weights: str | Path) -> tuple[State, str]:
    """The whole network's state dict from either form of file, and where it comes from."""
    state = read_checkpoint(path)
    if not is_bare_encoder(state):
        return state, str(path)
    try:
        teacher = resolve_weights(sam_med3d_weights, sam_med3d.SOURCES["turbo"])
    except WeightsError as error:
        msg = (
            f"{path} is FastSAM3D's bare student encoder; prompt encoder and mask decoder are read from SAM-Med3D's "
            f"file, and its {error}"
        )
        raise WeightsError(msg) from error
    if teacher is None:
        msg = f"`sam_med3d_weights` must be pretrained or the path of SAM-Med3D's file, but got {sam_med3d_weights!r}"
        raise WeightsError(msg)
    return join_student(state, read_checkpoint(teacher)), f"{path} completed by {teacher}"
