"""How a segmenter of volumes with one window (SAM-Med3D, FastSAM3D) goes through a volume: windows around prompts."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fairmedfm_monai.inferers.clicks import refine
from fairmedfm_monai.inferers.crops import MaskCrop
from fairmedfm_monai.inferers.grids import Grid
from fairmedfm_monai.inferers.growth import Crossing, around_points, crossings, hanging_together, shifted, tiles
from fairmedfm_monai.inferers.memory import BatchSize, run_batched
from fairmedfm_monai.inferers.volume_prompts import pad_prompts, read_prompts
from fairmedfm_monai.inferers.window_jobs import Job, PromptedObject, Start
from fairmedfm_monai.transforms.prompts import BOX_LOWER, BOX_UPPER, OBJECT, Prompt

if TYPE_CHECKING:
    from fairmedfm_monai.inferers.assembly import Assembly
    from fairmedfm_monai.networks.segmenters.base import ImageEmbedding
    from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter

logger = logging.getLogger(__name__)

# Windows whose embedding is kept, because an object may grow back into them; SAM-Med3D's take 0.8 MB each.
_KEPT = 32


def segment_windows(
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
    """Add the logits of all prompts to `assembly`, window by window.

    The window (128^3 voxels of 1.5 mm in SAM-Med3D) is centred on the prompt: on the middle of the box, of the mask or
    of the object points, as the official crop is on the label. What is bigger than a window is tiled by windows that
    overlap by at least a quarter, each with its part of the prompt; object points that are further apart than half a
    window get windows of their own.

    Points do not tell how far an object reaches, so with them windows grow: where the object, that is the connected
    part of the mask that holds a prompted point, touches a face of the window beyond which the volume continues and no
    other window has followed it, the window shifted by half into that direction is segmented with the deepest point of
    each piece of the object in the shared half, and with its logits there (0 elsewhere: nothing is known) where the
    network takes mask prompts. Specks apart from the object start nothing.

    A window that several labels and kinds share is embedded once; the last embeddings are kept. Where windows overlap
    the larger logit stays, as everywhere in the assembly: a window that sees but the rim of an object often misses it,
    and averaging would let that eat into what another window saw whole.

    Args:
        volume: (1, X, Y, Z) in the file's intensities, oriented to the network's ``axcodes``.
        spacing: (3,) mm.
        network: what to segment with.
        prompts: in voxel-centre indices of the volume.
        assembly: takes the logits; nothing is added outside the windows.
        channels: (kind, label) -> channel of the assembly.
        prompt_batch: prompts per decoder call; halved when memory runs out.
        max_windows: decoder passes per prompt, correction clicks not counted; more is cut off with a warning.
        progress: show a progress bar.

    Returns:
        (channel, Dice after the first prompt and after each correction click) of each prompt with such clicks. Clicks
        are drawn and Dice is taken inside the window; if the prompt has several windows, it is their mean, weighted by
        the reference's voxels.

    Raises:
        ValueError: spacing that is not positive, or prompts that the network does not take.
    """
    grid = Grid.between(volume.shape[1:], spacing, network.volume_spec.spacing)
    prepared = network.prepare(volume)
    walk = _Walk(prepared, grid, network, assembly, BatchSize("prompt_batch", prompt_batch))
    objects = [
        PromptedObject(prompt, prompt.mapped(grid.matrix), max_windows)
        for prompt in read_prompts(prompts, network, channels=channels, shape=grid.shape)
    ]
    for thing in objects:
        walk.begin(thing)
    with tqdm(disable=not progress, desc="windows", unit="window", total=len(walk.queue), leave=False) as bar:
        while walk.queue:
            walk.step()
            bar.total = bar.n + 1 + len(walk.queue)
            bar.update()
    return [(thing.prompt.channel, thing.mean_dice()) for thing in objects if thing.dice]


class _Walk:
    """The windows of one volume: what is to be done, and the last embeddings."""

    def __init__(
        self, volume: Tensor, grid: Grid, network: VolumeSegmenter, assembly: Assembly, batch: BatchSize
    ) -> None:
        self.volume, self.grid, self.network, self.assembly, self.batch = volume, grid, network, assembly, batch
        self.window = network.volume_spec.window
        self.queue: OrderedDict[Start, list[Job]] = OrderedDict()
        self._embeddings: OrderedDict[Start, ImageEmbedding] = OrderedDict()

    def begin(self, thing: PromptedObject) -> None:
        """Queue the windows that a prompt itself asks for."""
        jobs = [(start, job) for start in self._tiles(thing) if (job := self._first_job(thing, start)) is not None]
        if len(jobs) > thing.left:
            logger.warning(
                "%s spans %d windows, but max_windows is %d: its outer parts are left out",
                thing.prompt.name,
                len(jobs),
                thing.left,
            )
        for start, job in jobs[: thing.left]:
            self._enqueue(start, job)

    def step(self) -> None:
        """Do everything that is queued for the next window."""
        start, jobs = self.queue.popitem(last=False)
        embedding = self._embed(start)
        for _, group in itertools.groupby(sorted(jobs, key=lambda job: job.make_up), key=lambda job: job.make_up):
            members = list(group)
            done = iter(members)
            for logits, low_res in run_batched(members, self.batch, lambda some: self._decode(embedding, some)):
                for row in range(len(logits)):
                    self._put(next(done), start, logits[row], None if low_res is None else low_res[row])

    def _embed(self, start: Start) -> ImageEmbedding:
        if start not in self._embeddings:
            self._embeddings[start] = self.network.embed(self.grid.image(self.volume, start, self.window))
        self._embeddings.move_to_end(start)
        while len(self._embeddings) > _KEPT:
            self._embeddings.popitem(last=False)
        return self._embeddings[start]

    def _decode(self, embedding: ImageEmbedding, jobs: Sequence[Job]) -> tuple[Tensor, Tensor | None]:
        """Logits (P, *window) and, unless there were correction clicks, low-resolution logits (P, h, w, d)."""
        coords, labels = pad_prompts([(job.coords, job.labels) for job in jobs], self.volume.device)
        masks = None
        if jobs[0].prior is not None:
            masks = torch.stack([job.prior for job in jobs if job.prior is not None])[None]
        elif jobs[0].mask is not None:
            given = torch.stack([job.mask for job in jobs if job.mask is not None])[None]
            masks = self.network.mask_input(given.to(self.volume.device), embedding)
        *_, rounds = jobs[0].make_up
        if rounds:
            targets = torch.stack([job.target for job in jobs if job.target is not None])[None]
            logits, dice = refine(self.network, embedding, coords, labels, targets, rounds, masks)
            for job, target, values in zip(jobs, targets[0], dice[0].tolist(), strict=True):
                job.owner.dice.append((int(target.sum()), values))
            return logits[0].detach(), None
        low_res, _ = self.network.decode_low_res(embedding, coords, labels, masks)
        return self.network.upscale(low_res, embedding)[0].detach(), low_res[0].detach()

    def _put(self, job: Job, start: Start, logits: Tensor, low_res: Tensor | None) -> None:
        """Add one object's logits (*window) to the assembly and queue the neighbours into which the object reaches."""
        thing = job.owner
        self.assembly.add(thing.prompt.channel, self.grid.region(start, self.window), self.grid.back(logits, start))
        if thing.prompt.tells_extent:
            return
        mask = (logits > 0).cpu().numpy() & self.grid.inside(start, self.window)
        found = hanging_together(mask, job.coords[job.labels == OBJECT])
        thing.found[start] = found | thing.found.get(start, False)
        for crossing in crossings(found, self._open_faces(start)):
            if thing.has_followed(crossing.beyond + start):
                continue
            there = tuple((crossing.shift + start).tolist())
            if not self._follow(thing, there, crossing, low_res):
                logger.warning(
                    "%s: its object reaches beyond %d windows (max_windows): it is cut off there",
                    thing.prompt.name,
                    len(thing.found),
                )
                return

    def _follow(self, thing: PromptedObject, there: Start, crossing: Crossing, low_res: Tensor | None) -> bool:
        """Queue the window into which an object goes; False if it may have no more."""
        point = (crossing.point - crossing.shift)[None].astype(float)
        waiting = [job for job in self.queue.get(there, []) if job.owner is thing]
        if waiting:  # with another piece of the object: one more point, no more work
            coords, labels = np.concatenate([point, waiting[0].coords]), np.append(OBJECT, waiting[0].labels)
            place = self.queue[there].index(waiting[0])
            self.queue[there][place] = replace(waiting[0], coords=coords, labels=labels)
            return True
        if thing.left == 0:
            return False
        coords, labels = self._points_in(thing, there)
        coords, labels = np.concatenate([point, coords]), np.append(OBJECT, labels)
        prior = None
        if low_res is not None and "mask" in self.network.accepts:
            prior = shifted(low_res, crossing.shift.tolist(), self.window)
        self._enqueue(there, Job(thing, coords, labels, prior))
        return True

    def _enqueue(self, start: Start, job: Job) -> None:
        job.owner.left -= 1
        self.queue.setdefault(start, []).append(job)

    def _tiles(self, thing: PromptedObject) -> list[Start]:
        """Windows over everything that a prompt says of where its object is."""
        known = [thing.coords[thing.prompt.labels >= OBJECT]]
        if not thing.prompt.tells_extent:
            return around_points(known[0], self.window)
        if thing.prompt.mask is not None:
            lower = np.array(thing.prompt.mask.start)
            known.append(self.grid.box(lower, lower + thing.prompt.mask.block.shape - 1))
        places = np.concatenate(known)
        return tiles(places.min(axis=0), places.max(axis=0), self.window)

    def _first_job(self, thing: PromptedObject, start: Start) -> Job | None:
        """The part of a prompt that lies in a window; None where nothing in it asks for an object."""
        prompt = thing.prompt
        coords, labels = self._points_in(thing, start)
        box = thing.coords[prompt.labels >= BOX_LOWER] - start
        if len(box) and (box[1] >= -0.5).all() and (box[0] < np.array(self.window) - 0.5).all():
            coords = np.concatenate([coords, np.clip(box, 0, np.array(self.window) - 1)])
            labels = np.concatenate([labels, [BOX_LOWER, BOX_UPPER]])
        mask, target = (self._crop_in(crop, start) for crop in (prompt.mask, prompt.target if prompt.rounds else None))
        if mask is None and not (labels >= OBJECT).any():
            return None
        return Job(thing, coords, labels, mask=mask, target=target)

    def _points_in(self, thing: PromptedObject, start: Start) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, 3) and labels (N,) of a prompt's own points in a window."""
        labels, coords = thing.prompt.labels, thing.coords - start
        here = (labels <= OBJECT) & ((coords >= -0.5) & (coords < np.array(self.window) - 0.5)).all(axis=1)
        return coords[here], labels[here]

    def _crop_in(self, crop: MaskCrop | None, start: Start) -> Tensor | None:
        """A mask (*window) of bool in a window; None where there is nothing of it."""
        if crop is None:
            return None
        mask = self.grid.mask(crop, start, self.window)
        return mask if mask.any() else None

    def _open_faces(self, start: Start) -> list[tuple[int, int]]:
        """(axis, side) of a window's faces beyond which the volume has voxels."""
        region = self.grid.region(start, self.window)
        below = [(axis, -1) for axis, part in enumerate(region) if part.start > 0]
        return below + [(axis, 1) for axis, part in enumerate(region) if part.stop < self.grid.shape[axis]]
