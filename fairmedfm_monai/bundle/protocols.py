"""Published protocols: choices that differ from this project's own, kept in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SegmentationProtocol:
    """How a protocol evaluates promptable segmentation.

    Attributes:
        threshold: of the mask logits; 0 is SAM's own.
        reverse_channels: feed colour images as BGR.
        slice_table: pool all slices of all volumes as if they were independent images, in ``slices.csv``.
    """

    threshold: float = 0.0
    reverse_channels: bool = False
    slice_table: bool = False


SEGMENTATION = {
    "default": SegmentationProtocol(),
    # FairMedFM (Jin et al., NeurIPS 2024), published code: logits enter a Dice that cuts at 0.5, images are read by
    # OpenCV in BGR order, volumes are evaluated as a pool of slices.
    "fairmedfm": SegmentationProtocol(threshold=0.5, reverse_channels=True, slice_table=True),
}


def segmentation_protocol(name: str) -> SegmentationProtocol:
    """The settings of a protocol.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in SEGMENTATION:
        msg = f"`protocol` must be one of {', '.join(SEGMENTATION)} for segmentation, but got {name!r}"
        raise ValueError(msg)
    return SEGMENTATION[name]


@dataclass(frozen=True)
class PromptFreeProtocol:
    """How a protocol trains and evaluates segmentation without prompts, for models whose input can be chosen.

    Attributes:
        crop: edge in pixels of the square cut out of the middle of every image and mask; -1 = the whole image. An edge
            longer than the image's leaves that axis as it is.
        pixel_mean: subtrahend per channel of intensities 0..255; None = the model's own.
        pixel_std: divisor per channel; None = the model's own.
        rotation: interpolation of images that the augmentation rotates; masks take the nearest pixel.
        unions: labels that are reported beside those of the masks: name -> labels that they are made of.
    """

    crop: int = -1
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    rotation: str = "bilinear"
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def derived(self, labels: Iterable[str]) -> dict[str, list[str]]:
        """The unions whose parts a dataset has and that are no label of it."""
        known = set(labels)
        return {
            name: list(parts) for name, parts in self.unions.items() if known.issuperset(parts) and name not in known
        }


PROMPT_FREE = {
    "default": PromptFreeProtocol(),
    # FairSeg (Tian et al., ICLR 2024), published SAMed code: the middle 512 x 512 pixels, intensities / 255 without
    # mean and standard deviation, rotation by the nearest pixel; the optic disc is rim and cup.
    "fairseg": PromptFreeProtocol(
        crop=512,
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(255.0, 255.0, 255.0),
        rotation="nearest",
        unions={"disc": ("rim", "cup")},
    ),
}


def prompt_free_protocol(name: str, spatial_dims: int = 2) -> PromptFreeProtocol:
    """The settings of a protocol.

    Args:
        name: of ``PROMPT_FREE``.
        spatial_dims: of the dataset; what crops is for images.

    Raises:
        ValueError: for an unknown name, or volumes that a protocol for images would crop.
    """
    if name not in PROMPT_FREE:
        msg = f"`protocol` must be one of {', '.join(PROMPT_FREE)} for segmentation without prompts, but got {name!r}"
        raise ValueError(msg)
    if PROMPT_FREE[name].crop > 0 and spatial_dims != 2:
        msg = f"`protocol` {name!r} is for images, but the dataset holds volumes: leave it at default"
        raise ValueError(msg)
    return PROMPT_FREE[name]
