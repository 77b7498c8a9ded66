"""Encode once: a dataset whose items carry a frozen encoder's features, cached on disk by content."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose, Randomizable

import fairmedfm_monai
from fairmedfm_monai.data.cases import case_name
from fairmedfm_monai.data.content import ContentKeys
from fairmedfm_monai.data.descriptions import describe_object, encoder_key
from fairmedfm_monai.data.encoding import Images, Shards, fill
from fairmedfm_monai.data.feature_store import FeatureStore, joint_key
from fairmedfm_monai.data.home import home

FORMAT = 1  # of the files; a change makes new folders and leaves old ones alone
SHARD_SIZE = 256  # images per shard: about what a killed run loses, and what processes share out
CPU_BATCH = 8  # images at once in a lane on the CPU: activations of more leave its caches, and lanes end less together
_DAY = 86400.0
_LOGGER = logging.getLogger(__name__)


class FeatureDataset(Dataset):
    """Cases whose ``image`` is the feature vector of a frozen encoder, encoded once and kept on disk.

    The key of an encoding is the content of the image file, the transform and the encoder's weights at the time of
    `encode`; moving or renaming files costs nothing, changing one image encodes that image again. The cache may be
    filled by several processes at once, which share the work. Read by memory map, so RAM does not grow with the data.

    `encode` works at several batches at once, on the CPU with a share of torch's threads each: `encode_image` is called
    by several threads and must keep nothing on the encoder between calls.

    A case that cannot be read or encoded is replaced by the next one that can, which then carries
    ``failed: "<case_id>: <reason>"`` (see `CaseDataset`).

    Args:
        data: cases as `DatasetInfo.cases` gives them; ``image`` is a path.
        transform: from ``{"image": path}`` to ``{"image": tensor (C, spatial...)}``; nothing else of a case is passed,
            and nothing in it may be random.
        encoder: frozen; ``encode_image(images (B, C, spatial...)) -> {name: tensor (B, ...)}``.
        cache_dir: where the cache lives; None means ``<home>/features``.
        device: where the encoder runs.
        batch_size: images per call of the encoder; on the CPU at most 8, which is faster there than more.
        num_workers: processes that decode images; with 0, the threads that encode do it in turns.
        feature: entry of ``encode_image``'s result that items carry. Of the others, vectors are cached too, so that
            every usage of an encoder shares one pass.
        amp: compute in bfloat16 and in the channels-last layout. Faster where the device has bfloat16 arithmetic;
            features are then off by up to about 1 % of the largest, and cached apart from the others.
        spatial_dims: number of spatial axes that every image must have after the transform; None = any.

    Raises:
        ValueError: a transform that holds something random.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any] | None,
        encoder: torch.nn.Module,
        *,
        cache_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        num_workers: int = 0,
        feature: str = "features",
        amp: bool = False,
        spatial_dims: int | None = None,
    ) -> None:
        super().__init__(data=data, transform=None)
        _refuse_random(transform)
        self.image_transform = transform
        self.encoder: torch.nn.Module | None = encoder
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else home() / "features"
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.feature = feature
        self.amp = amp
        self.spatial_dims = spatial_dims
        self.failed: dict[str, str] = {}  # case id -> reason
        self._rows: np.ndarray | None = None  # row of each case in the view, -1 where it failed
        self._view: Path | None = None
        self._array: np.ndarray | None = None

    def encode(self) -> None:
        """Encode what the cache lacks; cheap when it lacks nothing. Every rank of a job may call it at once.

        Raises:
            RuntimeError: called in a loader worker, or not one case could be encoded.
            KeyError: the encoder gives no entry named `feature`.
        """
        if torch.utils.data.get_worker_info() is not None:
            msg = "FeatureDataset.encode() must be called in the main process, before any DataLoader iterates"
            raise RuntimeError(msg)
        keys = ContentKeys(self.cache_dir / "files.sqlite").of([str(case["image"]) for case in self.data])
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key is not None}
        unique = list(dict.fromkeys(key for key in keys if key is not None))
        store = self._store()
        view = store.view(unique)
        reasons: dict[str, str] = {}
        if view is None and unique:
            reasons = self._fill(store, unique, [str(self.data[first[key]]["image"]) for key in unique])
            unique = [key for key in unique if key in store]
            view = store.view(unique) or (store.build_view(unique) if unique else None)
        self._finish(keys, unique, reasons, view)

    def _usable_encoder(self) -> torch.nn.Module:
        if self.encoder is None:
            msg = "this FeatureDataset was sent to another process and has no encoder; encode it where it was made"
            raise RuntimeError(msg)
        return self.encoder

    def _store(self) -> FeatureStore:
        description = {
            "format": FORMAT,
            "encoder": encoder_key(self._usable_encoder()),
            "transform": describe_object(self.image_transform),
            "versions": {"fairmedfm_monai": fairmedfm_monai.__version__, "monai": monai.__version__},
        }
        if self.amp:
            description["amp"] = "bfloat16"
        text = json.dumps(description, sort_keys=True)
        store = FeatureStore(self.cache_dir / joint_key([text]), self.feature)
        store.clear_scratch(older_than=time.time() - _DAY)
        if not (store.folder / "description.json").exists():  # for people only
            (store.folder / "description.json").write_text(json.dumps(description, indent=1, sort_keys=True))
        return store

    def _fill(self, store: FeatureStore, keys: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
        """Encode missing images, leaving to other processes what they are at; return the failures."""
        store.refresh()
        batch_size = min(self.batch_size, CPU_BATCH) if self.device.type == "cpu" else self.batch_size
        shards = Shards(store, keys, size=SHARD_SIZE, batch_size=batch_size)
        images = Images(paths, self.image_transform, spatial_dims=self.spatial_dims)
        encoder = self._usable_encoder()
        training = encoder.training
        encoder.to(self.device).eval()
        try:
            return fill(shards, images, self._encode, device=self.device, num_workers=self.num_workers)
        finally:
            encoder.train(training)

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> dict[str, np.ndarray]:
        images = images.to(self.device)
        if self.amp and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            encoded = self._usable_encoder().encode_image(images)  # type: ignore[operator]
        if self.feature not in encoded:
            msg = f"`feature` is {self.feature!r}, but the encoder gives {', '.join(encoded)}"
            raise KeyError(msg)
        # Entries of the fewest axes are vectors: (B, D) of pictures, (B, N, D) of the slices of volumes.
        axes = min(value.ndim for value in encoded.values())
        kept = {name: value for name, value in encoded.items() if value.ndim == axes or name == self.feature}
        return {name: value.float().cpu().numpy() for name, value in kept.items()}

    def _finish(
        self, keys: Sequence[str | None], unique: Sequence[str], reasons: Mapping[str, str], view: Path | None
    ) -> None:
        row_of = {key: row for row, key in enumerate(unique)}
        self._rows = np.array([row_of.get(key, -1) if key else -1 for key in keys], dtype=np.int64)
        self.failed = {}
        for index in np.flatnonzero(self._rows < 0).tolist():
            key, name = keys[index], case_name(self.data[index])
            self.failed[name] = reasons.get(key, "could not be encoded") if key else "the file cannot be read"
            _LOGGER.warning("case left out: %s: %s", name, self.failed[name])
        self._view, self._array = view, None
        if self.data and view is None:
            name, reason = next(iter(self.failed.items()))
            msg = f"none of {len(self.data)} cases could be encoded; the first: {name}: {reason}"
            raise RuntimeError(msg)

    def _transform(self, index: int) -> dict[str, Any]:
        if self._rows is None or self._view is None:
            msg = "call encode() before reading items: encoding is a step of its own, in the main process"
            raise RuntimeError(msg)
        if self._array is None:
            self._array = np.load(self._view, mmap_mode="r", allow_pickle=False)
        failed = ""
        if self._rows[index] < 0:
            name = case_name(self.data[index])
            failed = f"{name}: {self.failed[name]}"
            readable = np.flatnonzero(self._rows >= 0)
            index = int(readable[np.searchsorted(readable, index) % len(readable)])
        feature = torch.from_numpy(np.array(self._array[self._rows[index]]))
        case = self.data[index]
        # A feature vector does not know its file: without an id (MONAI Label gives none) cases could not be told apart.
        return {"case_id": case_name(case), **case, "image": feature, "failed": failed}

    def __getstate__(self) -> dict[str, Any]:
        """Without memory map and, once encoded, encoder: loader workers open the map themselves and encode nothing."""
        state = self.__dict__.copy()
        state["_array"] = None
        if self._view is not None:
            state["encoder"] = None
        return state


def _refuse_random(transform: object) -> None:
    parts = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    names = [type(part).__name__ for part in parts if isinstance(part, Randomizable) and not isinstance(part, Compose)]
    if names:
        msg = f"`transform` must not be random, because each image is encoded once, but it holds {', '.join(names)}"
        raise ValueError(msg)
