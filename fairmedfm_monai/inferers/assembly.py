"""Where the masks of a volume are put together, piece by piece, without ever holding more than the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT

OUTPUTS = ("logits", "masks", "label_map")


class Assembly:
    """The output of one image or volume, to which logits of regions are added in any order.

    ``logits``: one channel per label and kind; where pieces meet, the larger logit stays; ``NO_PROMPT`` elsewhere.
    ``masks``: 1 (uint8) where any piece of the channel has a logit above `threshold`, else 0.
    ``label_map``: one channel that holds, per voxel, the value of the channel with the largest logit above `threshold`,
    of equal ones the first channel, else 0. Of the logits only the largest per voxel is kept, in half precision,
    whatever the number of channels: 3 bytes per voxel in all.

    Args:
        channels: number of channels that `add` knows.
        shape: spatial shape, (H, W) or (H, W, D).
        output: "logits", "masks" or "label_map".
        values: the label value of each channel, for "label_map": distinct, from 1 upwards.
        threshold: of logits, for "masks" and "label_map".
        dtype: of "logits": float32 or float16; logits are clipped to +-1e4 so that they fit both.
        device: where the output lies.
        axis: the axis along which slices are added; a slice then lies in memory in one piece. None: the usual order.

    Raises:
        ValueError: an unknown output, or a label map without one value per channel.
    """

    def __init__(
        self,
        channels: int,
        shape: Sequence[int],
        *,
        output: str = "logits",
        values: Sequence[int] | None = None,
        threshold: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        axis: int | None = None,
    ) -> None:
        if output not in OUTPUTS:
            msg = f"output must be one of {', '.join(OUTPUTS)}, got {output!r}"
            raise ValueError(msg)
        self.channels, self.shape, self.output, self.threshold = channels, tuple(shape), output, threshold
        self.device = torch.device(device)
        if output == "label_map":
            self._values, self._channel_of = _label_tables(values, channels, device=self.device)
            self._best = _filled(1, self.shape, float("-inf"), dtype=torch.float16, device=device, axis=axis)
            dtype, channels = (torch.uint8 if max(self._values) <= 255 else torch.int16), 1
        elif output == "masks":
            dtype = torch.uint8
        fill = NO_PROMPT if output == "logits" else 0.0
        self._data = _filled(channels, self.shape, fill, dtype=dtype, device=device, axis=axis)

    def add(self, channel: int, region: Sequence[slice], logits: Tensor) -> None:
        """Merge a piece into a channel.

        Adding the same piece twice changes nothing, and neither does the order of the pieces.

        Args:
            channel: 0 to `channels` - 1.
            region: one slice per spatial axis, inside the volume.
            logits: at the region's shape, object where positive.
        """
        if not 0 <= channel < self.channels:
            msg = f"channel must be in 0..{self.channels - 1}, got {channel}"
            raise ValueError(msg)
        where: tuple[int | slice, ...] = (0 if self.output == "label_map" else channel, *region)
        data = self._data[where]
        if logits.shape != data.shape:
            msg = f"logits must have the region's shape {tuple(data.shape)}, got {tuple(logits.shape)}"
            raise ValueError(msg)
        piece = logits.detach().to(self.device)
        if self.output == "logits":
            data.copy_(torch.maximum(data, piece.clamp(NO_PROMPT, -NO_PROMPT).to(data.dtype)))
        elif self.output == "masks":
            data.bitwise_or_((piece > self.threshold).to(data.dtype))
        else:
            self._label(channel, data, self._best[where], piece)

    def result(self) -> Tensor:
        """(channels, H, W[, D]), or (1, H, W[, D]) of a label map; the assembly's own memory, not a copy."""
        return self._data

    def _label(self, channel: int, label_map: Tensor, best: Tensor, piece: Tensor) -> None:
        is_object = piece > self.threshold
        rounded = piece.clamp(NO_PROMPT, -NO_PROMPT).half()
        ties = is_object & (rounded == best)
        wins = is_object & (rounded > best)
        if bool(ties.any()):
            # Equal logits: the first channel wins, whatever the order in which the pieces come.
            ties[ties.clone()] = self._channel_of[label_map[ties].long()] > channel
            wins |= ties
        label_map.masked_fill_(wins, self._values[channel])
        best.copy_(torch.where(wins, rounded, best))


def _label_tables(values: Sequence[int] | None, channels: int, *, device: torch.device) -> tuple[list[int], Tensor]:
    """The value of each channel, and for each value its channel."""
    known = [int(value) for value in values or ()]
    if len(known) != channels or len(set(known)) < channels or min(known, default=0) < 1:
        msg = (
            f"values must hold one distinct label value from 1 upwards for each of the {channels} channels of a label "
            f"map, got {values}; a label map takes one kind of prompt"
        )
        raise ValueError(msg)
    channel_of = torch.zeros(max(known) + 1, dtype=torch.long, device=device)
    channel_of[torch.tensor(known, device=device)] = torch.arange(channels, device=device)
    return known, channel_of


def _filled(
    channels: int,
    shape: tuple[int, ...],
    value: float,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    axis: int | None,
) -> Tensor:
    """(channels, *shape), laid out in memory as (slices, channels, rows, columns) where `axis` numbers slices.

    Rows are the second axis within a slice and columns the first, as in the pictures that segmenters see.
    """
    if axis is None:
        return torch.full((channels, *shape), value, dtype=dtype, device=device)
    spatial = list(range(1, len(shape) + 1))
    slices = [spatial.pop(axis)] if len(shape) == 3 else []
    order = [*slices, 0, *reversed(spatial)]
    sizes = (channels, *shape)
    memory = torch.full([sizes[dim] for dim in order], value, dtype=dtype, device=device)
    return memory.permute([order.index(dim) for dim in range(len(order))])
