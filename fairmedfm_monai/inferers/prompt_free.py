"""Inference of segmenters that answer for all classes at once and take no prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from fairmedfm_monai.inferers.assembly import Assembly
from fairmedfm_monai.inferers.grids import Grid
from fairmedfm_monai.inferers.growth import tiles
from fairmedfm_monai.inferers.memory import BatchSize, run_batched
from fairmedfm_monai.inferers.volume_prompts import check_finite
from fairmedfm_monai.transforms.prompts import label_values

OUTPUTS = ("masks", "label_map")
Region = tuple[slice, ...]


class PromptFreeInferer(Inferer):
    """Segment every slice of a volume (or an image), or every window, into the classes that a network knows.

    A voxel belongs to the class with the largest logit. Where windows meet, a label wins over the background, and of
    two labels the one that is farther ahead of all other classes. Nothing is held that grows with the number of labels.

    Args:
        labels: label names, or name -> value, in the order of the network's classes (its first is the background).
        axis: the axis that numbers the slices of a volume; networks of volumes ignore it.
        output: "masks" (uint8, 0 and 1), one channel per label, or "label_map", one channel of label values.
        slice_batch: slices or windows per call; halved, with a warning, when memory runs out.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: an unknown output, an axis that does not exist or a batch below 1.
    """

    def __init__(
        self,
        labels: Mapping[str, int] | Sequence[str],
        *,
        axis: int = -1,
        output: str = "masks",
        slice_batch: int = 8,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if output not in OUTPUTS or axis not in range(-3, 3) or slice_batch < 1:
            msg = (
                f"output must be one of {', '.join(OUTPUTS)}, axis within -3..2 and slice_batch at least 1, got "
                f"{output!r}, {axis!r}, {slice_batch}"
            )
            raise ValueError(msg)
        self.values = list(label_values(labels).values())
        self.axis, self.output, self.slice_batch, self.progress = axis % 3, output, slice_batch, progress

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Masks of all labels.

        Args:
            inputs: (1, C, H, W) or (1, C, H, W, D), C = 1 or 3, in 0..255; (1, 1, X, Y, Z) in the file's own
                intensities for a network of volumes.
            network: a `fairmedfm_monai.usages.PromptFreeSegmenter`, possibly inside DistributedDataParallel.
            args: not used; callers such as MONAI Deploy hand over whatever the preprocessing left.
            kwargs: not used, likewise.

        Returns:
            (1, labels, H, W[, D]) or (1, 1, H, W[, D]) of label values, uint8 (int16 for large values), with the meta
            data and applied operations of a MetaTensor `inputs`.

        Raises:
            ValueError: another shape, NaN in the image, or a network for another number of labels.
        """
        network = getattr(network, "module", network)
        self._check(inputs, network)
        image = inputs.as_tensor()[0] if isinstance(inputs, MetaTensor) else inputs[0]
        check_finite(image)
        if network.spatial_dims == 3:
            affine = inputs.affine.reshape(-1, 4, 4)[0] if isinstance(inputs, MetaTensor) else torch.eye(4)
            pieces = self._windows(image, affine_to_spacing(affine, r=3).tolist(), network)
            axis = None
        else:
            pieces, axis = self._slices(image, network), self.axis if image.ndim == 4 else 2
        shape = tuple(image.shape[1:])
        found = Assembly(
            len(self.values), shape, output="label_map", values=self.values, device=image.device, axis=axis
        )
        for region, ahead in pieces:
            for channel, logits in enumerate(ahead):
                found.add(channel, region, logits)
        result = found.result()
        if self.output == "masks":
            result = torch.cat([(result == value).to(torch.uint8) for value in self.values])
        return MetaTensor(result[None]).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else result[None]

    def _slices(self, image: Tensor, network: Any) -> Iterator[tuple[Region, Tensor]]:
        """Where, and how far each label is ahead, slice by slice; pictures stand upright as in `SliceRun`."""
        volume = image.ndim == 4
        pictures = (image.movedim(1 + self.axis, 0) if volume else image[None]).transpose(-1, -2)

        def call(indices: Sequence[int]) -> Tensor:
            batch = torch.stack([pictures[index].expand(3, -1, -1).float() for index in indices])
            return leads(network(batch)).transpose(-1, -2)

        start = 0
        for found in self._run(list(range(len(pictures))), call):
            for offset, logits in enumerate(found):
                region = [slice(None)] * (image.ndim - 1)
                if volume:
                    region[self.axis] = slice(start + offset, start + offset + 1)
                    logits = logits.unsqueeze(1 + self.axis)  # noqa: PLW2901
                yield tuple(region), logits
            start += len(found)

    def _windows(self, volume: Tensor, spacing: Sequence[float], network: Any) -> Iterator[tuple[Region, Tensor]]:
        """The same, window by window on the grid of the model, back on the grid of the volume."""
        spec = network.segmenter.volume_spec
        volume = network.segmenter.prepare(volume)
        grid = Grid.between(volume.shape[1:], spacing, spec.spacing)
        starts = tiles(np.zeros(3, dtype=int), np.array(grid.size) - 1, spec.window)

        def call(some: Sequence[Any]) -> Tensor:
            return leads(network(torch.cat([grid.image(volume, start, spec.window) for start in some])))

        done = 0
        for found in self._run(starts, call):
            for start, logits in zip(starts[done : done + len(found)], found, strict=True):
                yield grid.region(start, spec.window), torch.stack([grid.back(one, start) for one in logits])
            done += len(found)

    def _run(self, items: list[Any], call: Any) -> Iterator[Tensor]:
        with tqdm(total=len(items), disable=not self.progress or len(items) == 1, leave=False) as bar:
            for found in run_batched(items, BatchSize("slice_batch", self.slice_batch), call):
                yield found
                bar.update(len(found))

    def _check(self, inputs: Tensor, network: Any) -> None:
        dims = (3,) if network.spatial_dims == 3 else (2, 3)
        channels = (1,) if network.spatial_dims == 3 else (1, 3)
        if inputs.ndim - 2 not in dims or inputs.shape[0] != 1 or inputs.shape[1] not in channels:
            msg = (
                "inputs must be one image (1, C, H, W) or volume (1, C, H, W, D) with C = 1 or 3, and (1, 1, X, Y, Z) "
                f"for a network of volumes, got shape {tuple(inputs.shape)}"
            )
            raise ValueError(msg)
        if network.num_labels != len(self.values):
            msg = f"the network knows {network.num_labels} labels, but {len(self.values)} were given; give its own"
            raise ValueError(msg)


def leads(logits: Tensor) -> Tensor:
    """How far each label (B, K, ...) is ahead of the best other class, of logits (B, 1 + K, ...), background first."""
    best, second = logits.float().topk(2, dim=1).values.unbind(1)
    own = logits[:, 1:].float()
    others = torch.where(own == best[:, None], second[:, None], best[:, None])
    return own - others
