"""How a 2D segmenter goes through a volume: slice by slice, every slice embedded once for all of its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from fairmedfm_monai.inferers.assembly import Assembly
from fairmedfm_monai.inferers.clicks import refine
from fairmedfm_monai.inferers.memory import BatchSize, run_batched
from fairmedfm_monai.inferers.slice_prompts import SlicePrompt, pad_masks, pad_prompts

if TYPE_CHECKING:
    from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter


@dataclass(frozen=True)
class Found:
    """What one prompt found on one slice.

    Attributes:
        index: number of the slice.
        prompt: what was asked.
        logits: (rows, columns), object where positive.
        iou: the model's own estimate; 1 after correction clicks, which need none.
    """

    index: int
    prompt: SlicePrompt
    logits: Tensor
    iou: float


class SliceRun:
    """A 2D segmenter, the slices it is given, and where its masks go.

    The picture that the network sees has the second in-plane axis as rows and the first as columns, because MONAI's
    arrays index (column, row): a PNG then stands upright, and so does an axial slice of a volume in LPS. Masks are
    turned back. Several prompts of a channel on a slice are united by the larger logit. Beyond the assembly nothing is
    held that grows with the volume.

    Args:
        image: (C, H, W) or (C, H, W, D) with C = 1 or 3, in the range that the network expects (0..255).
        network: a 2D segmenter.
        assembly: of the image's shape.
        axis: 0, 1 or 2, that numbers the slices of a volume.
        slice_batch: slices per call of the image encoder; both halve when memory runs out.
        prompt_batch: prompts per call of the decoder, at least one per slice.
        bar: counts the decoded prompts.
    """

    def __init__(
        self,
        image: Tensor,
        network: PromptableSegmenter,
        assembly: Assembly,
        *,
        axis: int,
        slice_batch: BatchSize,
        prompt_batch: BatchSize,
        bar: tqdm[Any] | None = None,
    ) -> None:
        self.network, self.assembly, self.axis = network, assembly, axis if image.ndim == 4 else 2
        planes = image[None] if image.ndim == 3 else image.movedim(1 + axis, 0)
        self.pictures = planes.transpose(-1, -2)  # a view (slices, C, rows, columns)
        self.slice_batch, self.prompt_batch = slice_batch, prompt_batch
        self.bar = bar if bar is not None else tqdm(disable=True)
        # (slice, prompt, channel) -> Dice after the first prompt and after each correction click.
        self.dice: dict[tuple[int, int, int], list[float]] = {}

    def picture(self, index: int) -> Tensor:
        """Slice `index` as the network sees it, (3, rows, columns)."""
        return self._colours([index])[0]

    def embed(self, indices: Sequence[int]) -> ImageEmbedding:
        """Encode slices."""
        return self.network.embed(self._colours(indices))

    def _colours(self, indices: Sequence[int]) -> Tensor:
        """Slices as (B, 3, rows, columns); neighbours share cache lines of the volume, so they are cut together."""
        return self.pictures[list(indices)].float().contiguous().expand(-1, 3, -1, -1).contiguous()

    def decode(
        self, embedding: ImageEmbedding, indices: Sequence[int], rows: Sequence[Sequence[SlicePrompt]]
    ) -> Iterator[Found]:
        """What all prompts of some slices find.

        Args:
            embedding: of the slices.
            indices: (B,) their numbers.
            rows: the prompts of each.
        """
        for make_up in sorted({prompt.make_up for row in rows for prompt in row}):
            chosen = [[prompt for prompt in row if prompt.make_up == make_up] for row in rows]
            columns = range(max(map(len, chosen)))

            def call(part: Sequence[int], chosen: list[list[SlicePrompt]] = chosen) -> list[Found]:
                return self._decode(embedding, indices, [row[part[0] : part[-1] + 1] for row in chosen])

            for found in run_batched(columns, self.prompt_batch, call, cost=len(rows)):
                self.bar.update(len(found))
                yield from found

    def _decode(
        self, embedding: ImageEmbedding, indices: Sequence[int], rows: Sequence[Sequence[SlicePrompt]]
    ) -> list[Found]:
        """One call of the decoder (or one per correction click); all prompts are of one make-up."""
        device = self.pictures.device
        coords, labels = pad_prompts(rows, device)
        sample = next(prompt for row in rows for prompt in row)
        extra: dict[str, Any] = {}
        if sample.mask is not None:
            masks = pad_masks(rows, indices, self.axis, key="mask", device=device)
            extra["masks"] = self.network.mask_input(masks, embedding)
        if sample.text is not None:
            extra["texts"] = [prompt.text for prompt in max(rows, key=len)]  # the same words on each slice
        if sample.rounds:
            targets = pad_masks(rows, indices, self.axis, key="target", device=device)
            logits, dice = refine(self.network, embedding, coords, labels, targets, sample.rounds, **extra)
            iou = torch.ones(logits.shape[:2])
            for b, p, prompt in _numbered(rows):
                self.dice[indices[b], prompt.source, prompt.channel] = dice[b, p].tolist()
        else:
            logits, iou = self.network.decode(embedding, coords, labels, **extra)
        estimates = iou.tolist()
        return [Found(indices[b], prompt, logits[b, p], estimates[b][p]) for b, p, prompt in _numbered(rows)]

    def add(self, found: Found) -> None:
        """Put a mask where it belongs."""
        logits = found.logits.T
        if len(self.assembly.shape) == 2:
            self.assembly.add(found.prompt.channel, (slice(None),) * 2, logits)
            return
        region = [slice(None)] * 3
        region[self.axis] = slice(found.index, found.index + 1)
        self.assembly.add(found.prompt.channel, region, logits.unsqueeze(self.axis))


def segment_slices(run: SliceRun, slices: Mapping[int, Sequence[SlicePrompt]]) -> None:
    """Add the masks of all prompts; slices without a prompt are not even embedded.

    Args:
        run: what to segment with, and where to put it.
        slices: from `split_by_slice`.
    """

    def call(indices: Sequence[int]) -> None:
        embedding = run.embed(indices)
        for found in run.decode(embedding, indices, [slices[index] for index in indices]):
            run.add(found)

    for _ in run_batched(sorted(slices), run.slice_batch, call):
        pass


def _numbered(rows: Sequence[Sequence[SlicePrompt]]) -> Iterator[tuple[int, int, SlicePrompt]]:
    for b, row in enumerate(rows):
        for p, prompt in enumerate(row):
            yield b, p, prompt
