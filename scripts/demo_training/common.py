"""What both trainings share: the learning-rate curve, the file format, facts about the machine, the AUC."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import rankdata
from torch import nn

MAX_MEGABYTES = 5.0


def rate(step: int, *, steps: int, horizon: int, cooldown: int, highest: float) -> float:
    """Learning rate of a step.

    Linear warm-up over 100 steps, a half cosine that would end at ``horizon``, and a linear descent to zero over the
    last ``cooldown`` of ``steps``.

    Args:
        step: 0-based.
        steps: number of steps.
        horizon: at least ``steps``; equal to it, the cosine itself ends at zero.
        cooldown: at least 1; 1 = no descent.
        highest: rate after the warm-up.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * step / horizon))
    return highest * min(1.0, (step + 1) / 100) * cosine * min(1.0, (steps - step) / cooldown)


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half.

    Args:
        positive: (N,) bool with both classes.
        score: (N,).
    """
    ranks = rankdata(score)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auc_error(value: float, n_positive: int, n_negative: int) -> float:
    """Standard error of an AUC after Hanley and McNeil (Radiology 143:29-36, 1982, equation 1)."""
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (n_positive - 1) * (q1 - value**2) + (n_negative - 1) * (q2 - value**2)
    return math.sqrt(spread / (n_positive * n_negative))


def save_model(model: nn.Module, path: Path, *, about: dict[str, Any]) -> None:
    """Write a state_dict in half precision, with the attribution and the training's facts as metadata.

    Raises:
        ValueError: the file exceeds 5 MB.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    save_file(state, path, metadata={"format": "pt", **words})
    size = path.stat().st_size / 1e6
    if size > MAX_MEGABYTES:
        msg = f"{path} has {size:.2f} MB, more than {MAX_MEGABYTES} MB; make the model narrower"
        raise ValueError(msg)


def read_about(path: Path) -> dict[str, Any]:
    """Metadata of a file of :func:`save_model`."""
    with safe_open(path, framework="pt") as file:
        words = dict(file.metadata() or {})
    return {key: json.loads(value) if value[:1] in "{[" else value for key, value in words.items()}


def machine() -> dict[str, Any]:
    """CPU, its cores and instruction sets, and the versions that decide rounding."""
    found = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        found = lines[0] if lines else found
    return {
        "cpu": found,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def timed(found: dict[str, Any], name: str) -> Iterator[None]:
    """Store the wall-clock and the CPU seconds of a block in ``found[name]``."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found[name] = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
