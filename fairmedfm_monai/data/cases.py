"""A dataset that goes on when a case cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

MAX_FAILURES = 100  # unreadable cases in a row; beyond that the settings are wrong, not the files
_LOGGER = logging.getLogger(__name__)


def case_name(case: Mapping[str, Any]) -> str:
    """``case_id`` of a case, or the file name of its image where it has none."""
    return str(case.get("case_id") or Path(str(case.get("image", "case"))).name)


def short_reason(error: BaseException) -> str:
    """First line of an error; MONAI's own ``applying transform ...`` around it, one per level, is taken off."""
    while str(error).startswith("applying transform") and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check_axes(image: Any, spatial_dims: int) -> None:
    """Refuse an image (C, spatial...) that is a volume among pictures, or a picture among volumes.

    Raises:
        ValueError: it has another number of spatial axes.
    """
    if image.ndim - 1 != spatial_dims:
        msg = f"the image has {image.ndim - 1} spatial axes, but `spatial_dims` of the card is {spatial_dims}"
        raise ValueError(msg)


class CaseDataset(Dataset):
    """MONAI's ``Dataset``, except that a case that cannot be read does not end the run.

    Such a case is replaced by the next readable one (from the start again after the last), which then carries
    ``failed: "<case_id>: <reason>"`` of the case it stands in for. Readable cases carry ``failed: ""``.

    Args:
        data: cases as `DatasetInfo.cases` gives them.
        transform: called on a copy of each case.
        spatial_dims: number of spatial axes that every image must have after the transform; None = any.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any] | None = None,
        *,
        spatial_dims: int | None = None,
    ) -> None:
        super().__init__(data=data, transform=transform)
        self.spatial_dims = spatial_dims

    def _transform(self, index: int) -> dict[str, Any]:
        if not -len(self.data) <= index < len(self.data):
            msg = f"index {index} of {len(self.data)} cases"
            raise IndexError(msg)  # `for item in dataset` ends by it
        failed = ""
        for step in range(min(len(self.data), MAX_FAILURES)):
            case = self.data[(index + step) % len(self.data)]
            try:
                item = super()._transform((index + step) % len(self.data))
                if self.spatial_dims is not None:
                    check_axes(item["image"], self.spatial_dims)
            except Exception as error:  # a file can be broken in any way
                failed = failed or f"{case_name(case)}: {short_reason(error)}"
                if step == 0:
                    _LOGGER.warning("case left out: %s", failed)
                last = error
                continue
            item["failed"] = failed
            return item
        msg = f"none of {min(len(self.data), MAX_FAILURES)} cases can be read; the first: {failed}"
        raise RuntimeError(msg) from last
