"""What fills a feature cache: shards of missing images, shared among processes, and lanes that decode and encode."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fairmedfm_monai.data.cases import check_axes, short_reason
from fairmedfm_monai.data.feature_store import FeatureStore, joint_key

MAX_LANES = 4  # batches in work at once; each needs the encoder's memory for a batch
_LOGGER = logging.getLogger(__name__)

Decoded = tuple[int, "torch.Tensor | str"]  # index and image, or the reason why there is none
Encoded = dict[int, "dict[str, np.ndarray] | str"]  # index -> encodings of one image, or the reason


class Images(Dataset):
    """Image paths behind the transform: the tensor, or the reason why there is none."""

    def __init__(
        self, paths: Sequence[Any], transform: Callable[[Any], Any] | None, *, spatial_dims: int | None = None
    ) -> None:
        self.paths = paths
        self.transform = transform
        self.spatial_dims = spatial_dims

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Decoded:
        # Only the image goes in: what else a case holds could change the tensor, but is not part of the cache's key.
        try:
            item = {"image": self.paths[index]}
            image = (self.transform(item) if self.transform else item)["image"]
            if self.spatial_dims is not None:
                check_axes(image, self.spatial_dims)
            return index, torch.as_tensor(np.asarray(image), dtype=torch.float32)
        except Exception as error:  # a file can be broken in any way
            return index, short_reason(error)


@dataclass
class _Shard:
    """A locked part of the work."""

    lock: contextlib.ExitStack
    missing: int
    started: float
    encoded: Encoded = field(default_factory=dict)


class Shards:
    """Batches of the images that a store lacks; a batch sampler that locks each shard when its turn comes.

    One iteration is one pass: shards that another process is at are left for the next pass, and `left` says whether one
    is needed. Batches come from one shard after the other without a stop in between, so that the lanes never run dry.
    A pass must be finished (every batch given back to `done`) before the next one begins: only then may it wait for
    another process, since it holds no lock that the other could wait for.

    Args:
        store: knows what there is, and takes what is new.
        keys: content keys of the images.
        size: images per shard; rounded up to whole batches, so that batches have one shape.
        batch_size: images per batch.
    """

    def __init__(self, store: FeatureStore, keys: Sequence[str], *, size: int, batch_size: int) -> None:
        self._store = store
        self._keys = keys
        self._size = math.ceil(size / batch_size) * batch_size
        self._batch_size = batch_size
        self._wait = False
        self._held: dict[int, _Shard] = {}
        self.left = list(range(math.ceil(len(keys) / self._size)))
        self.reasons: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[int]]:
        todo, self.left = self.left, []
        wait, self._wait = self._wait, True  # what is left after this pass is in other hands
        for number in todo:
            indices = range(number * self._size, min((number + 1) * self._size, len(self._keys)))
            with contextlib.ExitStack() as stack:
                name = joint_key(self._keys[indices.start : indices.stop])
                if not stack.enter_context(self._store.lock(name, wait=wait)):
                    self.left.append(number)
                    continue
                wait = False
                self._store.refresh()
                missing = [index for index in indices if self._keys[index] not in self._store]
                if not missing:
                    continue
                self._held[number] = _Shard(stack.pop_all(), len(missing), time.perf_counter())
            for start in range(0, len(missing), self._batch_size):
                yield missing[start : start + self._batch_size]

    def done(self, batch: Encoded) -> None:
        """Take one encoded batch; the last one of a shard writes it and frees its lock."""
        number = next(iter(batch)) // self._size
        shard = self._held[number]
        shard.encoded |= batch
        if len(shard.encoded) == shard.missing:
            self._write(shard)
            self._held.pop(number).lock.close()

    def _write(self, shard: _Shard) -> None:
        rows = {self._keys[index]: row for index, row in sorted(shard.encoded.items()) if not isinstance(row, str)}
        failed = {self._keys[index]: row for index, row in shard.encoded.items() if isinstance(row, str)}
        if rows:
            names = next(iter(rows.values()))
            self._store.write(list(rows), {name: np.stack([row[name] for row in rows.values()]) for name in names})
        self.reasons |= failed
        seconds = time.perf_counter() - shard.started
        _LOGGER.info("encoded %d images in %.1f s, %d failed", len(rows), seconds, len(failed))

    def close(self) -> None:
        """Free the locks of shards that were not finished."""
        for shard in self._held.values():
            shard.lock.close()
        self._held.clear()


def fill(
    shards: Shards,
    images: Images,
    encode: Callable[[torch.Tensor], Mapping[str, np.ndarray]],
    *,
    device: torch.device,
    num_workers: int,
) -> dict[str, str]:
    """Encode what the shards lack and return the failures, content key -> reason.

    Args:
        shards: the work.
        images: decoded in the lanes, or by `num_workers` processes ahead of them.
        encode: images (B, C, spatial...) -> {name: (B, ...)}; called by several threads at once.
        device: where it computes.
        num_workers: processes that decode.
    """
    batches: Iterable[list[Any]] = shards
    if num_workers > 0:
        batches = DataLoader(
            images,
            batch_sampler=shards,
            num_workers=num_workers,
            persistent_workers=True,
            collate_fn=_as_list,
        )
    lanes = lanes_on(device)
    own = threading.local()

    def work(batch: list[Any]) -> Encoded:
        if num_workers == 0:
            if not hasattr(own, "images"):  # a transform need not bear being called by two threads
                own.images = copy.deepcopy(images) if lanes > 1 else images
            batch = [own.images[index] for index in batch]
        return encode_decoded(batch, encode)

    try:
        while shards.left:
            for batch in in_lanes(batches, work, lanes=lanes):
                shards.done(batch)
    finally:
        shards.close()
    return shards.reasons


def lanes_on(device: torch.device) -> int:
    """How many batches are in work at once.

    On the CPU they share torch's threads out: threads that work at one operation together wait for each other at its
    end, those that work at different batches never do, and one batch is decoded while another is encoded. On an
    accelerator the second lane decodes while the first one's batch is encoded.
    """
    return min(torch.get_num_threads(), MAX_LANES) if device.type == "cpu" else 2


def in_lanes(batches: Iterable[list[Any]], work: Callable[[list[Any]], Encoded], *, lanes: int) -> Iterator[Encoded]:
    """Results of `work` in the order of the batches, of which at most two per lane are taken ahead."""
    threads = torch.get_num_threads()
    share = max(threads // lanes, 1)
    pool = ThreadPoolExecutor(lanes, "encode", initializer=torch.set_num_threads, initargs=(share,))
    pending: deque[Future[Encoded]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(work, batch))
            if len(pending) >= 2 * lanes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # the lanes' number would also be that of threads to come


def encode_decoded(batch: Sequence[Decoded], encode: Callable[[torch.Tensor], Mapping[str, np.ndarray]]) -> Encoded:
    """Encode the images of a batch, those of one shape together; the others keep their reason."""
    encoded: Encoded = {index: image for index, image in batch if isinstance(image, str)}
    images = {index: image for index, image in batch if not isinstance(image, str)}
    for shape in {image.shape for image in images.values()}:
        indices = [index for index, image in images.items() if image.shape == shape]
        entries = encode(torch.stack([images[index] for index in indices]))
        for position, index in enumerate(indices):
            row = {name: array[position] for name, array in entries.items()}
            finite = all(np.isfinite(vector).all() for vector in row.values())
            encoded[index] = row if finite else "the encoder's output is not finite"
    return encoded


def _as_list(batch: list[Any]) -> list[Any]:
    return batch
