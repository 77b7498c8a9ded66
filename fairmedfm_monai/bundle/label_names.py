"""Labels of trained segmentation bundles, and the metric that chooses their checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairmedfm_monai.bundle.model_info import ModelInfo
    from fairmedfm_monai.data.dataset import DatasetInfo


def default_selection(labels: Mapping[str, int], prompts: Sequence[str] = ()) -> str:
    """Name of the validation Dice: of the first prompt kind; the mean over labels, or the Dice of the only one.

    Args:
        labels: of the dataset.
        prompts: kinds that are validated; none for a model without prompts.
    """
    label = next(iter(labels)) if len(labels) == 1 else ""
    return "/".join(part for part in (*prompts[:1], "val", label, "dice") if part)


def trained_labels(info: ModelInfo, dataset: DatasetInfo) -> dict[str, int]:
    """The labels of a dataset, after making sure that the model was trained for the same.

    A model that nobody trained yet can be built and looked at for any labels; its missing checkpoint stops a run.

    Args:
        info: of the model; its ``classes`` hold label name -> value.
        dataset: what it is to be evaluated on.

    Raises:
        ValueError: when they differ in name, value or order.
    """
    labels = dict(info.classes) if isinstance(info.classes, dict) else {}
    if info.trained and list(labels.items()) != list(dataset.labels.items()):
        msg = (
            f"the model was trained for the labels {labels} but dataset {dataset.name!r} has {dict(dataset.labels)}: "
            "give a dataset with the same labels, values and order, or train again"
        )
        raise ValueError(msg)
    return dict(dataset.labels)
