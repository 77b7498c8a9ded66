"""Tests of ``demo_clip`` on unseen radiographs, and the calibration of the demo data's bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from demo_training.clip_data import Films, make_films
from demo_training.common import auc, auc_error
from fairmedfm_monai.data.demo.bias import degrade
from fairmedfm_monai.data.demo.xray import PROMPTS
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP
from fairmedfm_monai.transforms.intensity import XRayIntensityd

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

ZERO_SHOT_TARGET, PROBE_TARGET = 0.80, 0.85
TEST_SEED, PROBE_SEED, CALIBRATION_SEED, CHECK_SEED = 15_000, 15_001, 20_000, 20_001
N_TEST, N_PROBE, N_CALIBRATION = 1200, 600, 1600
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
GAP = 0.15


@torch.no_grad()
def encode(model: DemoCLIP, image: np.ndarray, *, batch: int = 100) -> dict[str, torch.Tensor]:
    """Encode uint8 images (N, 128, 128), prepared as the bundles prepare them.

    Their percentile scaling undoes part of a loss of contrast: a calibration without it would be that of other scores.
    """
    spec, prepare = model.input_spec, XRayIntensityd("image")
    grey = torch.stack([prepare({"image": torch.from_numpy(film)[None]})["image"] for film in image])
    pixels = (grey - spec.mean[0]) / spec.std[0]
    parts = [model.encode_image(part) for part in pixels.split(batch)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@torch.no_grad()
def zero_shot_score(model: DemoCLIP, encoded: dict[str, torch.Tensor]) -> np.ndarray:
    """P(finding) (N,) with the prompt ensembles of the demo card: mean embedding per class, softmax over classes."""
    classes = [model.encode_text(texts)["zero_shot"].mean(0) for texts in PROMPTS.values()]
    text = F.normalize(torch.stack(classes), dim=-1)
    position = list(PROMPTS).index("finding")
    return model.similarity(encoded, {"zero_shot": text}).softmax(1)[:, position].double().numpy()


def fit_probe(
    features: torch.Tensor, positive: np.ndarray, *, penalty: float = 1e-3
) -> Callable[[torch.Tensor], np.ndarray]:
    """Logistic regression on standardised features (N, D) by L-BFGS; returns the score function."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    inputs, target = (features - mean) / std, torch.from_numpy(positive).float()
    weight = torch.zeros(features.shape[1] + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        logits = inputs @ weight[:-1] + weight[-1]
        loss = F.binary_cross_entropy_with_logits(logits, target) + penalty * weight[:-1].square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    fitted = weight.detach()
    return lambda other: (((other - mean) / std) @ fitted[:-1] + fitted[-1]).double().numpy()


def measure_clip(model: DemoCLIP, scan: Scan, *, processes: int = 2) -> dict[str, Any]:
    """Everything that demo_results.json says about ``demo_clip``, without the calibration."""
    test = make_films(scan, seed=TEST_SEED, count=N_TEST, processes=processes)
    training = make_films(scan, seed=PROBE_SEED, count=N_PROBE, processes=processes)
    encoded = encode(model, test.image)
    score = zero_shot_score(model, encoded)
    probe = fit_probe(encode(model, training.image)["features"], training.positive)
    n_positive = int(test.positive.sum())
    found: dict[str, Any] = {"n_test": N_TEST, "n_positive": n_positive, "n_probe_training": N_PROBE}
    for name, values in (("zero_shot", score), ("linear_probe", probe(encoded["features"]))):
        value = auc(test.positive, values)
        error = auc_error(value, n_positive, N_TEST - n_positive)
        found[name] = {"auc": round(value, 4), "standard_error": round(error, 4)}
    found["zero_shot_strata"] = _strata(test, score)
    return found


def _strata(test: Films, score: np.ndarray) -> dict[str, dict[str, float]]:
    """Zero-shot AUC of the positives of each size, side and zone against all negatives."""
    result: dict[str, dict[str, float]] = {}
    for name in ("size", "side", "zone"):
        values = np.array([getattr(fact, name) for fact in test.facts])
        result[name] = {}
        for value in sorted(set(values) - {""}):
            kept = ~test.positive | (values == value)
            result[name][str(value)] = round(auc(test.positive[kept], score[kept]), 4)
    return result


def degraded_auc(model: DemoCLIP, films: Films, strength: float, *, seed: int) -> float:
    """Zero-shot AUC of films degraded with this strength."""
    worse = [degrade(image, strength, np.random.default_rng([seed, row])) for row, image in enumerate(films.image)]
    return auc(films.positive, zero_shot_score(model, encode(model, np.stack(worse))))


def calibrate(model: DemoCLIP, scan: Scan, *, processes: int = 2) -> dict[str, Any]:
    """Strength of `degrade` for a zero-shot AUC gap of .15, by interpolation; checked on other radiographs.

    The gap is that between films and the same films degraded: the true gap between two groups, without the noise of
    drawing two groups.
    """
    films = make_films(scan, seed=CALIBRATION_SEED, count=N_CALIBRATION, processes=processes)
    values = np.array([degraded_auc(model, films, strength, seed=CALIBRATION_SEED) for strength in STRENGTHS])
    gaps = values[0] - values
    strength = round(float(np.interp(GAP, np.maximum.accumulate(gaps), STRENGTHS)), 2)
    others = make_films(scan, seed=CHECK_SEED, count=N_CALIBRATION, processes=processes)
    checked = [degraded_auc(model, others, at, seed=CHECK_SEED) for at in (0.0, strength)]
    return {
        "gap": GAP,
        "strength": strength,
        "n": N_CALIBRATION,
        "curve": {str(s): round(float(g), 4) for s, g in zip(STRENGTHS, gaps, strict=True)},
        "gap_on_other_seed": round(checked[0] - checked[1], 4),
    }


def missed_clip(found: dict[str, Any]) -> list[str]:
    """Targets that a result of :func:`measure_clip` misses."""
    pairs = (("zero_shot", ZERO_SHOT_TARGET), ("linear_probe", PROBE_TARGET))
    return [f"{name} AUC {found[name]['auc']:.4f} < {target}" for name, target in pairs if found[name]["auc"] < target]
