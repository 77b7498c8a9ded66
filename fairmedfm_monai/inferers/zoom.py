"""Zoom-out-zoom-in: how SegVol goes through a volume (Du et al., "SegVol", NeurIPS 2024, section 2.3).

1. The volume's foreground (voxels > 0 after the network's normalisation), shrunk to one window by the nearest voxel, is
   segmented with the prompts in its coordinates; its logits are brought back by the nearest voxel.
2. The box of what was found is enlarged symmetrically to at least a window, each side by half of what is lacking, and
   cut at the foreground's border, even where the volume goes on at its other side, as the authors do. If nothing was
   found, the logits of 1 stay.
3. In this box, windows of full resolution overlap by half; where they meet, logits are averaged. Each window gets the
   text, those of the prompt's object points that lie in it, and, unless the text is all there is, a box: of the
   prediction of 1 in the window (a box of -1 where it is empty), but where there is only one window and the prompt has
   a box, that box itself.
4. The logits of 3 replace those of 1.

Differences from the authors' code, all where it loses geometry:

* Prompts are mapped to each window from their own coordinates. The authors blow up binary maps of the shrunk prompts,
  and draw the points at random from them.
* A box smaller than the window is padded with zeros on both sides, image, prediction and prompts alike. The authors do
  not pad the map of the prompts, so that their prompts are off by the padding.
* Nearest means the voxel whose centre is nearest both ways; the authors round indices down on the way back, half a
  voxel of the shrunk volume off.
* They pad the volume to at least a window before they crop its foreground, which cuts that padding off again: left out.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from fairmedfm_monai.inferers.boxes import Box, WindowedBox, around, enlarge, foreground, pick
from fairmedfm_monai.inferers.clicks import refine
from fairmedfm_monai.inferers.grids import Grid
from fairmedfm_monai.inferers.memory import BatchSize, run_batched
from fairmedfm_monai.inferers.volume_prompts import VolumePrompt, pad_prompts, read_prompts
from fairmedfm_monai.transforms.prompts import BOX_LOWER, BOX_UPPER, OBJECT, Prompt

if TYPE_CHECKING:
    from fairmedfm_monai.inferers.assembly import Assembly
    from fairmedfm_monai.networks.segmenters.base import ImageEmbedding
    from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter

logger = logging.getLogger(__name__)

_OVERLAP = 0.5
# Windows whose embedding is kept for the next prompt; SegVol's take 6 MB each.
_KEPT = 32
# Voxels of step 1 that are brought back at a time.
_CHUNK = 2**24


def segment_zoomed(
    volume: Tensor,
    spacing: Sequence[float],
    network: VolumeSegmenter,
    prompts: Sequence[Prompt],
    assembly: Assembly,
    *,
    channels: Mapping[tuple[str, str], int],
    prompt_batch: int = 32,
    max_windows: int = 27,
    progress: bool = False,
) -> list[tuple[int, list[float]]]:
    """Add the logits of all prompts to `assembly`, see the module's text.

    The shrunk volume is embedded once for all prompts; windows of full resolution once per prompt, unless prompts share
    them. Correction clicks are drawn on the shrunk volume, where all of the object is in sight.

    Args:
        volume: (1, X, Y, Z) in the file's intensities, oriented to the network's ``axcodes``.
        spacing: (3,) mm; only checked, for SegVol sees the file's own voxels.
        network: what to segment with.
        prompts: in voxel-centre indices of the volume.
        assembly: takes the logits; nothing is added outside the foreground.
        channels: (kind, label) -> channel of the assembly.
        prompt_batch: prompts per decoder call in step 1; halved when memory runs out.
        max_windows: windows of step 3 per prompt; if more are needed, those with the most predicted voxels are
            segmented, the logits of step 1 stay in the others, and a warning tells so.
        progress: show a progress bar over the prompts.

    Returns:
        (channel, Dice after the first prompt and after each correction click, both of step 1) of each prompt with such
        clicks.

    Raises:
        ValueError: spacing that is not positive, or prompts that the network does not take.
    """
    Grid.between(volume.shape[1:], spacing, None)
    prepared = network.prepare(volume)
    region = foreground(prepared)
    lower = np.array([part.start for part in region])
    found = read_prompts(prompts, network, channels=channels, shape=tuple(volume.shape[1:]))
    inside = [prompt for whole in found if (prompt := _within(whole, region)) is not None]
    if not inside:
        return []
    zoom = _Zoom(prepared[0][region][None], network, max_windows)
    dice: list[tuple[int, list[float]]] = []
    with tqdm(disable=not progress, desc="prompts", unit="prompt", total=len(inside), leave=False) as bar:
        for prompt, far in zoom.out(inside, BatchSize("prompt_batch", prompt_batch), dice):
            for part, logits in zoom.into(prompt, far):
                where = tuple(slice(p.start + low, p.stop + low) for p, low in zip(part, lower.tolist(), strict=True))
                assembly.add(prompt.channel, where, logits)
            bar.update()
    return dice


class _Zoom:
    """The foreground of one volume, its shrunk copy, and the last embeddings of its windows."""

    def __init__(self, volume: Tensor, network: VolumeSegmenter, max_windows: int) -> None:
        self.volume, self.network, self.max_windows = volume, network, max_windows
        self.shape, self.window = tuple(volume.shape[1:]), tuple(network.volume_spec.window)
        scale = tuple(size / own for size, own in zip(self.window, self.shape, strict=True))
        self.grid = Grid(self.shape, scale)
        # Index in the shrunk volume of each voxel along each axis.
        self.lookup = [
            np.floor((np.arange(own) + 0.5) * factor).astype(int) for own, factor in zip(self.shape, scale, strict=True)
        ]
        self._embeddings: OrderedDict[tuple[Any, ...], ImageEmbedding] = OrderedDict()

    def out(
        self, prompts: Sequence[VolumePrompt], batch: BatchSize, dice: list[tuple[int, list[float]]]
    ) -> Iterator[tuple[VolumePrompt, Tensor]]:
        """Step 1: each prompt with its logits (*window) on the shrunk volume; Dice of correction clicks to `dice`."""
        shrunk = F.interpolate(self.volume[None].float(), size=self.window, mode="nearest-exact")
        embedding = self.network.embed(shrunk)
        for rounds in sorted({prompt.rounds for prompt in prompts}):
            members = [prompt for prompt in prompts if prompt.rounds == rounds]
            owners = iter(members)
            for logits, values in run_batched(members, batch, lambda some: self._decode_shrunk(embedding, some)):
                for row, far in enumerate(logits):
                    prompt = next(owners)
                    if values is not None:
                        dice.append((prompt.channel, values[row].tolist()))
                    yield prompt, far

    def _decode_shrunk(
        self, embedding: ImageEmbedding, prompts: Sequence[VolumePrompt]
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (P, *window) and Dice (P, rounds + 1) of prompts with equally many rounds."""
        last = np.array(self.window) - 1
        # The authors' prompts are whole voxels of the shrunk volume. A box rounded so is the box of the shrunk object.
        places = [np.clip(np.ceil(prompt.mapped(self.grid.matrix) - 0.5), 0, last) for prompt in prompts]
        coords, labels = pad_prompts(
            [(place, prompt.labels) for place, prompt in zip(places, prompts, strict=True)], self.volume.device
        )
        texts = _texts([prompt.text for prompt in prompts])
        targets = [self.grid.mask(prompt.target, (0, 0, 0), self.window) for prompt in prompts if prompt.target]
        if prompts[0].rounds:
            stacked = torch.stack(targets)[None]
            logits, dice = refine(self.network, embedding, coords, labels, stacked, prompts[0].rounds, **texts)
            return logits[0].detach(), dice[0]
        return self.network.decode(embedding, coords, labels, **texts)[0][0].detach(), None

    def into(self, prompt: VolumePrompt, far: Tensor) -> Iterator[tuple[Box, Tensor]]:
        """Steps 2 to 4: regions of the foreground, which do not overlap, with their logits.

        Args:
            prompt: in indices of the foreground.
            far: (*window) logits of step 1.
        """
        everything = tuple(slice(0, size) for size in self.shape)
        found = self._found(far)
        if found is None:
            yield from self._brought_back(far, everything)
            return
        region = enlarge(found, self.window, self.shape)
        for rest in around(region, self.shape):
            yield from self._brought_back(far, rest)
        yield region, self._near(prompt, far, WindowedBox(region, self.window, _OVERLAP))

    def _found(self, far: Tensor) -> Box | None:
        """Step 2: the box of all voxels of the foreground with a positive logit."""
        used = [np.unique(table) for table in self.lookup]  # where the foreground is small, not all of `far`
        hits = (pick(far, used) > 0).cpu().numpy()
        if not hits.any():
            return None
        box = []
        for axis, (table, indices) in enumerate(zip(self.lookup, used, strict=True)):
            places = indices[hits.any(axis=tuple(other for other in range(3) if other != axis))]
            box.append(slice(int(np.searchsorted(table, places[0])), int(np.searchsorted(table, places[-1], "right"))))
        return tuple(box)

    def _far_in(self, far: Tensor, region: Box) -> Tensor:
        """Logits of step 1 in a region of the foreground."""
        return pick(far, [table[part] for table, part in zip(self.lookup, region, strict=True)])

    def _brought_back(self, far: Tensor, region: Box) -> Iterator[tuple[Box, Tensor]]:
        """The logits of step 1 in slabs, so that no copy of the whole volume is made."""
        first, second, third = region
        plane = (second.stop - second.start) * (third.stop - third.start)
        step = max(_CHUNK // max(plane, 1), 1)
        for start in range(first.start, first.stop, step):
            slab = (slice(start, min(start + step, first.stop)), second, third)
            yield slab, self._far_in(far, slab)

    def _near(self, prompt: VolumePrompt, far: Tensor, view: WindowedBox) -> Tensor:
        """Step 3: logits of a region, averaged over windows of full resolution."""
        prediction = view.pad(self._far_in(far, view.box) > 0)
        windows, chosen = view.windows, self._chosen(prompt, prediction, view.windows)

        def predict(image: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
            window = tuple(places[0][2:])
            if window not in chosen:
                tables = zip(self.lookup, view.indices(window), strict=True)
                return pick(far, [table[indices] for table, indices in tables])[None, None]
            only = len(windows) == 1
            rows = self._window_prompt(prompt, prediction[window], view.corner(window), only=only)
            coords, labels = pad_prompts([rows], image.device)
            embedding = self._embed(image, (*view.box, *window))
            return self.network.decode(embedding, coords, labels, **_texts([prompt.text]))[0].detach()

        padded = view.pad(self.volume[0][view.box].float())[None, None]
        near = sliding_window_inference(padded, self.window, 1, predict, _OVERLAP, mode="constant", with_coord=True)
        return view.crop(near[0, 0])

    def _chosen(self, prompt: VolumePrompt, prediction: Tensor, windows: Sequence[Box]) -> Sequence[Box]:
        """The windows that are segmented: all, or the `max_windows` with the most predicted voxels."""
        if len(windows) <= self.max_windows:
            return windows
        logger.warning(
            "%s: its object spans %d windows of full resolution, but max_windows is %d: the coarse result of the whole "
            "volume stays in the others",
            prompt.name,
            len(windows),
            self.max_windows,
        )
        return sorted(windows, key=lambda window: -int(prediction[window].sum()))[: self.max_windows]

    def _window_prompt(
        self, prompt: VolumePrompt, prediction: Tensor, corner: Sequence[int], *, only: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, 3) and labels (N,) for one window, by the rules of step 3."""
        coords, window = prompt.coords - corner, np.array(self.window)
        here = (prompt.labels == OBJECT) & ((coords >= -0.5) & (coords < window - 0.5)).all(axis=1)
        points, labels = coords[here], prompt.labels[here]
        if not len(prompt.labels):
            return points, labels
        if only and prompt.has_box:
            box = np.clip(coords[prompt.labels >= BOX_LOWER], 0, window - 1)
        else:
            voxels = prediction.nonzero().cpu().numpy()
            box = np.stack([voxels.min(axis=0), voxels.max(axis=0)]) if len(voxels) else np.full((2, 3), -1.0)
        return np.concatenate([points, box]), np.concatenate([labels, [BOX_LOWER, BOX_UPPER]])

    def _embed(self, image: Tensor, key: tuple[slice, ...]) -> ImageEmbedding:
        name = tuple((part.start, part.stop) for part in key)
        if name not in self._embeddings:
            self._embeddings[name] = self.network.embed(image)
        self._embeddings.move_to_end(name)
        while len(self._embeddings) > _KEPT:
            self._embeddings.popitem(last=False)
        return self._embeddings[name]


def _within(prompt: VolumePrompt, region: Box) -> VolumePrompt | None:
    """The prompt in the foreground; None, with a warning, where nothing of it is there."""
    inside = prompt.within(region)
    if inside is None:
        logger.warning("%s has nothing inside the foreground", prompt.name)
    return inside


def _texts(words: Sequence[str | None]) -> dict[str, Any]:
    """The argument ``texts`` of ``decode``, only where there is a text: other models take none."""
    return {"texts": [word or "" for word in words]} if any(words) else {}
