"""What a segmenter is trained on: samples cut from cases once, kept on disk by content, drawn anew in every epoch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from filelock import FileLock, Timeout
from monai.data import Dataset

import fairmedfm_monai
from fairmedfm_monai.data.cases import case_name, short_reason
from fairmedfm_monai.data.content import ContentKeys
from fairmedfm_monai.data.descriptions import describe_object
from fairmedfm_monai.data.feature_store import joint_key
from fairmedfm_monai.data.home import home
from fairmedfm_monai.data.sample_cuts import Cut

FORMAT = 1  # of the files; a change makes new folders and leaves old ones alone
MAX_LABELS = 255
_LOGGER = logging.getLogger(__name__)


class SampleDataset(Dataset):
    """Slices or windows of labelled cases.

    `prepare` reads every case once, cuts it and keeps the samples on disk, by the content of image, mask and transform.
    An epoch takes `samples_per_case` samples of each case, so that long scans do not outweigh short ones; over the
    epochs each case's samples are gone through in a seeded order, every one once before any comes again.

    An item holds ``image`` (C, *size) float32, ``label`` (1, *size) uint8 with 0 = background and 1, 2, ... = the
    labels in their order, ``case_id``, the case's ``attributes``, ``sample`` (its number in the case) and ``epoch``; it
    then goes through `transform`.
    A case that cannot be read, or holds no label, is logged and replaced by the next that can.

    Args:
        data: cases as `DatasetInfo.cases` gives them; ``label`` is the path of the mask.
        loading: from the case's paths to ``image`` (C, *spatial) and ``label`` (1, *spatial) on the model's grid;
            nothing in it may be random.
        cut: `SliceCutter` or `WindowCutter`.
        labels: label name -> value in the mask.
        transform: of each sample, may be random; ``epoch``, ``case_id`` and ``sample`` tell it which draw this is.
        samples_per_case: samples of each case in an epoch.
        cache_dir: where samples are kept; None means ``<home>/samples``.
        seed: of the order in which a case's samples come.

    Raises:
        ValueError: no or too many labels, or `samples_per_case` below 1.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        loading: Callable[[Any], Any],
        cut: Callable[[torch.Tensor, torch.Tensor], Iterable[Cut]],
        *,
        labels: Mapping[str, int],
        transform: Callable[[Any], Any] | None = None,
        samples_per_case: int = 1,
        cache_dir: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(data=data, transform=transform)
        if not 0 < len(labels) <= MAX_LABELS or samples_per_case < 1:
            msg = (
                f"`labels` must hold 1 to {MAX_LABELS} names and `samples_per_case` be at least 1, "
                f"but got {dict(labels)} and {samples_per_case}"
            )
            raise ValueError(msg)
        self.loading, self.cut, self.labels = loading, cut, dict(labels)
        self.samples_per_case, self.seed = samples_per_case, seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else home() / "samples"
        self.epoch = 1
        self.failed: dict[str, str] = {}  # case id -> reason
        self.counts: list[int] = []  # samples per case
        self._keys: list[str | None] = []

    def __len__(self) -> int:
        return len(self.data) * self.samples_per_case

    @property
    def item_cases(self) -> list[Mapping[str, Any]]:
        """The case of each place of an epoch, for samplers; one without samples stands for itself all the same."""
        return [case for case in self.data for _ in range(self.samples_per_case)]

    def start_epoch(self, engine: Any) -> None:
        """Handler of an engine's ``EPOCH_STARTED``: draw the samples of that epoch, also after a resumed training."""
        self.epoch = int(engine.state.epoch)

    def prepare(self) -> None:
        """Cut what the cache lacks; cheap when it lacks nothing. Every rank of a job may call it at once.

        Raises:
            RuntimeError: called in a loader worker, or not one case has a sample.
        """
        if torch.utils.data.get_worker_info() is not None:
            msg = "prepare() must be called in the main process, before any DataLoader iterates"
            raise RuntimeError(msg)
        (self.cache_dir / "locks").mkdir(parents=True, exist_ok=True)
        self._keys, self.failed = self._case_keys(), {}
        todo, wait = list(range(len(self.data))), False
        while todo:  # first what nobody is at, then wait for the rest
            todo = [index for index in todo if not self._make(index, wait=wait)]
            wait = True
        self.counts = [self._count(index) for index in range(len(self.data))]
        for name, reason in self.failed.items():
            _LOGGER.warning("case left out of the training: %s: %s", name, reason)
        if not any(self.counts):
            name, reason = next(iter(self.failed.items()), ("no case", "the split is empty"))
            msg = f"none of {len(self.data)} cases has a sample to train on; the first: {name}: {reason}"
            raise RuntimeError(msg)
        _LOGGER.info("%d samples of %d cases", sum(self.counts), sum(map(bool, self.counts)))

    def read(self, index: int, sample: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (C, *size) float32 and label map (1, *size) uint8 of one sample of a case."""
        folder = self._folder(index)
        image, label = (np.load(folder / f"{sample}-{name}.npy") for name in ("image", "label"))
        return torch.from_numpy(image).float(), torch.from_numpy(label)[None]

    def chosen(self, index: int) -> tuple[int, int]:
        """Case and sample that stand at a place of the present epoch."""
        if not self.counts:
            msg = "call prepare() before reading items: it is a step of its own, in the main process"
            raise RuntimeError(msg)
        case, draw = divmod(index, self.samples_per_case)
        usable = np.flatnonzero(self.counts)
        case = int(usable[np.searchsorted(usable, case) % len(usable)])
        count = self.counts[case]
        order = stable_generator(self.seed, self._keys[case]).permutation(count)
        return case, int(order[((self.epoch - 1) * self.samples_per_case + draw) % count])

    def _transform(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            msg = f"index {index} of {len(self)} samples"
            raise IndexError(msg)  # `for item in dataset` ends by it
        case, sample = self.chosen(index % len(self))
        asked = case_name(self.data[index % len(self) // self.samples_per_case])
        item = {
            **self._item(case, sample),
            "case_id": case_name(self.data[case]),
            "failed": f"{asked}: {self.failed[asked]}" if asked in self.failed else "",
            "attributes": dict(self.data[case].get("attributes", {})),
            "sample": sample,
            "epoch": self.epoch,
        }
        return self.transform(item) if self.transform else item

    def _item(self, case: int, sample: int) -> dict[str, Any]:
        image, label = self.read(case, sample)
        return {"image": image, "label": label}

    def _case_keys(self) -> list[str | None]:
        files = ContentKeys(self.cache_dir / "files.sqlite")
        images, masks = (files.of([str(case[key]) for case in self.data]) for key in ("image", "label"))
        description = {
            "format": FORMAT,
            "loading": describe_object(self.loading),
            "cut": describe_object(self.cut),
            "labels": self.labels,
            "versions": {"fairmedfm_monai": fairmedfm_monai.__version__, "monai": monai.__version__},
        }
        text = json.dumps(description)
        return [
            joint_key([image, mask, text]) if image and mask else None
            for image, mask in zip(images, masks, strict=True)
        ]

    def _folder(self, index: int) -> Path:
        return self.cache_dir / "cases" / str(self._keys[index])

    def _count(self, index: int) -> int:
        file = self._folder(index) / "count.json"
        count = int(json.loads(file.read_text())) if self._keys[index] and file.exists() else 0
        if not count:
            self.failed.setdefault(case_name(self.data[index]), "no label in it is large enough")
        return count

    def _make(self, index: int, *, wait: bool) -> bool:
        """Cut one case unless that was done; False where another process is at it."""
        name = case_name(self.data[index])
        if self._keys[index] is None:
            self.failed[name] = "its image or mask cannot be read"
            return True
        with held(self.cache_dir / "locks" / f"{self._keys[index]}.lock", wait=wait) as mine:
            if mine and not self._folder(index).exists():
                try:
                    self._write(index)
                except Exception as error:  # a file can be broken in any way
                    self.failed[name] = short_reason(error)
            return mine

    def _write(self, index: int) -> None:
        case = self.data[index]
        loaded = self.loading({"image": str(case["image"]), "label": str(case["label"])})
        image, mask = (torch.as_tensor(np.asarray(loaded[key])) for key in ("image", "label"))
        label = torch.zeros(mask.shape[1:], dtype=torch.uint8)
        for position, value in enumerate(self.labels.values(), start=1):
            label[mask[0].round() == value] = position
        with finished(self._folder(index)) as scratch:
            count = 0
            for picture, labelled in self.cut(image, label):
                np.save(scratch / f"{count}-image.npy", picture)
                np.save(scratch / f"{count}-label.npy", labelled)
                count += 1
            (scratch / "count.json").write_text(json.dumps(count))


def stable_generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on `parts` only: not on workers, ranks, machines or what was drawn before."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@contextlib.contextmanager
def held(file: Path, *, wait: bool) -> Any:
    """Hold a lock among processes; yields whether it is held (always, with `wait`)."""
    lock = FileLock(file)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def finished(folder: Path) -> Any:
    """A scratch folder that becomes `folder` when the block ends well, so that no half-written one ever counts."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        yield scratch
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
