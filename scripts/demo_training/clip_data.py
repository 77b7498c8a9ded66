"""Synthetic radiographs for the training and the tests of ``demo_clip``."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from demo_training.captions import Facts, size_word

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan
    from fairmedfm_monai.data.demo.slabs import Slabs

CELLS = 16  # edge of the map on which the auxiliary loss looks for the nodule
MARKER_SHARE = 0.2  # part of the training images with a corner marker, whatever their label
SHIFT_PX = 5


@dataclass(frozen=True)
class Films:
    """Radiographs with what is on them.

    Attributes:
        image: (N, 128, 128) uint8.
        cells: (N, 16, 16) float32, part of each cell that the nodule covers.
        facts: N facts.
    """

    image: np.ndarray
    cells: np.ndarray
    facts: list[Facts]

    @property
    def positive(self) -> np.ndarray:
        """(N,) bool, whether there is a nodule."""
        return np.array([fact.nodule for fact in self.facts])


_Chunk = tuple[int, int, int]  # generation seed, first and last (exclusive) number


def make_films(scan: Scan, *, seed: int, count: int, processes: int = 2) -> Films:
    """Project `count` radiographs of as many virtual patients, every second one with a nodule.

    Args:
        scan: the CT.
        seed: generation seed; 10,000 and more, as the demo datasets use smaller ones.
        count: number of images.
        processes: worker processes (started afresh: a forked one would hang after torch has used its threads).
    """
    from fairmedfm_monai.data.demo.slabs import make_slabs

    slabs = make_slabs(scan)
    chunks = [(seed, first, min(first + 250, count)) for first in range(0, count, 250)]
    if processes == 1:
        parts = [_project(slabs, chunk) for chunk in chunks]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(slabs,)) as pool:
            parts = list(pool.map(_project_shared, chunks))
    return Films(
        image=np.concatenate([part.image for part in parts]),
        cells=np.concatenate([part.cells for part in parts]),
        facts=[fact for part in parts for fact in part.facts],
    )


_SLABS: list[Slabs] = []


def _start(slabs: Slabs) -> None:
    """Begin a worker: one thread (results of images do not depend on it), the slabs sent once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    _SLABS[:] = [slabs]


def _project_shared(chunk: _Chunk) -> Films:
    return _project(_SLABS[0], chunk)


def _project(slabs: Slabs, chunk: _Chunk) -> Films:
    from fairmedfm_monai.data.demo.radiograph import Projector

    projector = Projector(slabs=slabs)
    seed, first, last = chunk
    images, cells, facts = [], [], []
    for number in range(first, last):
        image, nodule = projector.image((seed, number, 0), (seed, number), nodule=number % 2 == 0)
        images.append(image)
        if nodule is None:
            cells.append(np.zeros((CELLS, CELLS), np.float32))
            facts.append(Facts(nodule=False))
        else:
            edge = len(image) // CELLS
            cells.append(nodule.mask.reshape(CELLS, edge, CELLS, edge).mean((1, 3)).astype(np.float32))
            facts.append(Facts(nodule=True, size=size_word(nodule.radius_mm), side=nodule.side, zone=nodule.zone))
    return Films(np.stack(images), np.stack(cells), facts)


def augment(image: torch.Tensor, cells: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift, gain, noise, and corner markers that say nothing about the label. No mirror images: captions name sides.

    Args:
        image: (B, 128, 128) uint8.
        cells: (B, 16, 16).
        generator: source of every random number.

    Returns:
        Images (B, 1, 128, 128) in [0, 1] and cells (B, 1, 16, 16), shifted alike.
    """
    batch, size = len(image), image.shape[-1]
    draw = torch.rand((batch, 7), generator=generator)
    shift = (draw[:, :2] * 2 - 1) * SHIFT_PX * 2 / size
    theta = torch.eye(2, 3).repeat(batch, 1, 1)
    theta[:, :, 2] = shift
    picture = (image.float() / 255)[:, None]
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    picture = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    coarse = F.affine_grid(theta, [batch, 1, CELLS, CELLS], align_corners=False)
    cells = F.grid_sample(cells[:, None], coarse, align_corners=False)
    gain, offset = 0.9 + 0.2 * draw[:, 2], 0.1 * (draw[:, 3] - 0.5)
    mean = picture.mean((1, 2, 3), keepdim=True)
    picture = (picture - mean) * gain[:, None, None, None] + mean + offset[:, None, None, None]
    picture = picture + torch.randn(picture.shape, generator=generator) * (0.02 * draw[:, 4])[:, None, None, None]
    for index in torch.nonzero(draw[:, 5] < MARKER_SHARE).flatten().tolist():
        _mark(picture[index, 0], right=bool(draw[index, 6] < 0.5), generator=generator)
    return picture.clamp(0, 1), cells


def _mark(picture: torch.Tensor, *, right: bool, generator: torch.Generator) -> None:
    """Draw a white L into an upper corner of a picture (128, 128), in place: 6 to 18 px long, 2 to 4 px thick."""
    length, thick, top, side = (
        int(torch.randint(low, high, (), generator=generator)) for low, high in ((6, 19), (2, 5), (1, 9), (1, 9))
    )
    width = picture.shape[-1]
    left = width - side - length if right else side
    picture[top : top + length, left : left + thick] = 1.0
    picture[top + length - thick : top + length, left : left + length] = 1.0
