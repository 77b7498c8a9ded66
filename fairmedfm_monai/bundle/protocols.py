"""Published evaluation protocols: choices that differ from this project's own, kept in one place."""

from __future__ import annotations

from dataclasses import dataclass


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
