"""One label map from one mask per label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.prompts import label_values


class MasksToLabelMapd(MapTransform):
    """Turn mask logits (L, H, W[, D]), one channel per label, into one label map (1, H, W[, D]).

    A voxel gets the label with the largest logit where that logit is above `threshold`, else 0. Where labels overlap
    the larger logit therefore wins, and of equal ones the first label. The map is uint8, or int16 where a value needs
    it; meta data and applied operations of a MetaTensor stay. Put it after ``Invertd``, so that logits and not label
    numbers are interpolated.

    Args:
        keys: key of the logits; one kind of prompt only.
        labels: label name -> value in the map, or names, numbered 1, 2, ...; in the order of the channels.
        threshold: of the logits.
        allow_missing_keys: do nothing for a case without logits.

    Raises:
        ValueError: the number of channels is not the number of labels.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        labels: Mapping[str, int] | Sequence[str],
        threshold: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels, self.threshold = label_values(labels), threshold
        self.dtype = torch.uint8 if max(self.labels.values()) <= 255 else torch.int16

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the logits in a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._label_map(result[key])
        return result

    def _label_map(self, pred: torch.Tensor) -> torch.Tensor:
        if pred.shape[0] != len(self.labels):
            msg = (
                f"pred must have one channel per label ({', '.join(self.labels)}), got shape {tuple(pred.shape)}; "
                "give the inferer one kind of prompt"
            )
            raise ValueError(msg)
        logits = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
        # Label by label: an argmax over all channels would need an index volume of eight bytes per voxel.
        best = torch.full_like(logits[0], self.threshold)
        label_map = torch.zeros(logits.shape[1:], dtype=self.dtype, device=logits.device)
        for channel, value in zip(logits, self.labels.values(), strict=True):
            wins = channel > best
            label_map[wins] = value
            best = torch.maximum(best, channel)
        label_map = label_map[None]
        return MetaTensor(label_map).copy_meta_from(pred) if isinstance(pred, MetaTensor) else label_map
