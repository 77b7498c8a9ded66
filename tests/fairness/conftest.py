"""Simulated patients for the tests of the fairness core."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


def simulate(n_patients: int = 150, *, seed: int = 0, effect: float = 1.2, tied: bool = False) -> pd.DataFrame:
    """Patients with 1-4 images, sex (equal), age (worse when old) and race with unknowns."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 5, n_patients))
    sex = rng.choice(["female", "male"], n_patients)[patient]
    age = rng.choice(["lt60", "ge60"], n_patients)[patient]
    race = rng.choice(["white", "black", "asian", "unknown"], n_patients, p=[0.5, 0.25, 0.15, 0.1])[patient]
    y = (rng.random(n_patients) < 0.4)[patient]
    shift = np.where(age == "ge60", effect / 2, effect)
    latent = rng.standard_normal(n_patients)[patient] + rng.standard_normal(patient.size) + shift * y
    score = 1 / (1 + np.exp(-latent))
    return pd.DataFrame(
        {
            "case_id": [f"case{i}" for i in range(patient.size)],
            "patient_id": [f"p{i}" for i in patient],
            "split": "test",
            "sex": sex,
            "age": age,
            "race": race,
            "failed": "",
            "label": y.astype(int),
            "score": score.round(1) if tied else score,
        }
    )


@pytest.fixture(scope="session")
def patients() -> pd.DataFrame:
    return simulate()


@pytest.fixture(scope="session")
def meta() -> dict[str, object]:
    return {
        "task": "classification",
        "classes": ["no_finding", "finding"],
        "positive_class": "finding",
        "multi_label": False,
        "attributes": {"sex": ["female", "male"], "age": ["lt60", "ge60"], "race": ["white", "black", "asian"]},
        "intersections": [["sex", "age"]],
        "unit": "patient",
    }
