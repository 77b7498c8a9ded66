"""What models that see whole CT volumes ask of their data."""

from __future__ import annotations


def check_ct_volumes(modality: str, spatial_dims: int = 3) -> None:
    """Refuse data whose values are no Hounsfield units, or that are no volumes, before anything is read.

    Args:
        modality: as on the dataset's card.
        spatial_dims: likewise, 2 or 3.

    Raises:
        ValueError: for anything but CT volumes.
    """
    if modality != "ct" or spatial_dims != 3:
        msg = (
            "`dataset_dir` must hold CT volumes in Hounsfield units (`modality` 'ct' and `spatial_dims` 3 on its "
            f"card), the only images that this model was trained on, but got {spatial_dims}D {modality!r}; take a "
            "bundle of a model of pictures for these data"
        )
        raise ValueError(msg)
