"""Embeddings of training samples: what a frozen image encoder says of each, computed once and kept on disk."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairmedfm_monai.data.descriptions import encoder_key
from fairmedfm_monai.data.feature_store import joint_key
from fairmedfm_monai.data.samples import SampleDataset, held

_LOGGER = logging.getLogger(__name__)


class EmbeddedSamples(SampleDataset):
    """Samples whose ``image`` is the embedding of a frozen image encoder.

    The key of an embedding is the content of the sample and the encoder's weights at the time of `encode`. An item
    holds ``image`` (L,), the embedding as one vector, ``size`` (D,), the sample's size, and ``input_size`` (D,), the
    size that it had inside the model's input; the rest is as in `SampleDataset`. What turns the image itself (flips,
    noise) has no place in `transform`: the embedding would not follow.

    Args:
        *args: of `SampleDataset`.
        embedder: gives ``encoder`` (the frozen module, for the key) and ``encode(image (1, C, *size)) -> (vector
            (1, L), input size (D,))``, such as `fairmedfm_monai.usages.PromptedDecoder`.
        device: where it runs.
        **kwargs: of `SampleDataset`.
    """

    def __init__(self, *args: Any, embedder: Any, device: torch.device | str = "cpu", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.embedder: Any | None = embedder
        self.device = torch.device(device)
        self._encoded: Path | None = None

    def encode(self) -> None:
        """Cut and embed what the cache lacks; every rank of a job may call it at once, they share the work."""
        self.prepare()
        if self.embedder is None:
            msg = "this dataset was sent to another process and has no encoder; encode it where it was made"
            raise RuntimeError(msg)
        self._encoded = self.cache_dir / "embeddings" / joint_key([encoder_key(self.embedder.encoder)])
        self._encoded.mkdir(parents=True, exist_ok=True)
        todo, wait = [index for index, count in enumerate(self.counts) if count], False
        while todo:
            todo = [index for index in todo if not self._embed_case(index, wait=wait)]
            wait = True

    def _embed_case(self, index: int, *, wait: bool) -> bool:
        """Embed one case's samples unless that was done; False where another process is at it."""
        files = [self._file(index, sample) for sample in range(self.counts[index])]
        if all(file.exists() for file in files):
            return True
        with held(self.cache_dir / "locks" / f"{files[0].parent.name}-{self._keys[index]}.lock", wait=wait) as mine:
            if mine:
                started = time.perf_counter()
                missing = [sample for sample, file in enumerate(files) if not file.exists()]
                for sample in missing:
                    self._embed(index, sample)
                _LOGGER.info("embedded %d samples in %.1f s", len(missing), time.perf_counter() - started)
            return bool(mine)

    @torch.no_grad()
    def _embed(self, index: int, sample: int) -> None:
        embedder: Any = self.embedder
        training = embedder.training
        embedder.to(self.device).eval()
        try:
            vector, input_size = embedder.encode(self.read(index, sample)[0][None].to(self.device))
        finally:
            embedder.train(training)
        file = self._file(index, sample)
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as stream:
            np.savez(stream, vector=vector[0].float().cpu().numpy(), input_size=np.asarray(input_size, dtype=np.int64))
        part.replace(file)

    def _file(self, index: int, sample: int) -> Path:
        if self._encoded is None:
            msg = "call encode() before reading items: it is a step of its own, in the main process"
            raise RuntimeError(msg)
        return self._encoded / f"{self._keys[index]}-{sample}.npz"

    def _item(self, case: int, sample: int) -> dict[str, Any]:
        label = torch.from_numpy(np.load(self._folder(case) / f"{sample}-label.npy"))[None]
        with np.load(self._file(case, sample), allow_pickle=False) as stored:
            vector, input_size = torch.from_numpy(stored["vector"]), torch.from_numpy(stored["input_size"])
        return {"image": vector, "label": label, "size": torch.tensor(label.shape[1:]), "input_size": input_size}

    def __getstate__(self) -> dict[str, Any]:
        """Without the encoder: loader workers embed nothing."""
        return {**self.__dict__, "embedder": None, "cut": None if self.counts else self.cut}
