"""Recorded outputs of official code on weights that anyone can make again: what ``tests/parity/*.json`` hold.

A recording names the source and its commit, the seeds, and for each output its shape, norm and 64 values at seeded
places. Weights are drawn tensor by tensor from the tensor's *published* name, so that an implementation with other
names gets the same ones through its key mapping.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "parity"
N_VALUES = 64


def generator(*parts: object) -> torch.Generator:
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def seeded_tensor(name: str, shape: Iterable[int], seed: int) -> Tensor:
    """Values of one weight: matrices and kernels N(0, 1 / fan-in), vectors N(0, 0.02^2), norm weights around 1."""
    shape = tuple(shape)
    noise = torch.randn(shape, generator=generator(seed, name))
    if len(shape) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    is_scale = name.endswith("weight")  # one-dimensional weights are those of normalisations
    return 0.02 * noise + (1.0 if is_scale else 0.0)


def seeded_state(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Tensor]:
    """A state dict of published names; pass ``{name: tensor.shape for ... in module.state_dict().items()}``."""
    return {name: seeded_tensor(name, shape, seed) for name, shape in shapes.items()}


def seeded_input(shape: Iterable[int], seed: int, *, low: float = 0.0, high: float = 255.0) -> Tensor:
    """Uniform noise, smoothed by nothing: every pixel counts."""
    return torch.rand(tuple(shape), generator=generator("input", seed)) * (high - low) + low


def summary(output: Tensor) -> dict[str, Any]:
    """What is recorded of one output."""
    flat = output.detach().double().flatten()
    places = torch.randint(len(flat), (N_VALUES,), generator=generator("places", tuple(output.shape)))
    return {"shape": list(output.shape), "norm": float(flat.norm()), "values": flat[places].tolist()}


def write(
    name: str, *, source: str, commit: str, weight_seed: int, outputs: Mapping[str, Tensor], **facts: Any
) -> Path:
    """Record official outputs; called by hand, with the official code at hand."""
    content = {"source": source, "commit": commit, "weight_seed": weight_seed, **facts}
    content["outputs"] = {key: summary(value) for key, value in outputs.items()}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def compare(record: Mapping[str, Any], outputs: Mapping[str, Tensor], *, tolerance: float) -> None:
    """Assert that outputs are the recorded ones: the largest difference in units of the output's root mean square."""
    assert set(outputs) == set(record["outputs"])
    for key, expected in record["outputs"].items():
        found = summary(outputs[key])
        assert found["shape"] == expected["shape"], key
        scale = expected["norm"] / math.sqrt(math.prod(expected["shape"]))
        difference = max(abs(a - b) for a, b in zip(found["values"], expected["values"], strict=True))
        assert difference <= tolerance * scale, f"{key}: {difference:.2e} of {scale:.2e}"
        assert math.isclose(found["norm"], expected["norm"], rel_tol=tolerance), key
