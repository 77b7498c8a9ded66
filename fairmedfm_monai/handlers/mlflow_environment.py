"""What the environment tells MLflow (set by importing this), and our runs about what they belong to."""

from __future__ import annotations

import json
import os

# Before MLflow is imported: patients' data stay home and so do usage statistics; an unreachable server costs seconds,
# not MLflow's default of about four minutes per call. What a user has set is kept.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

RUN_TAGS = "FAIRMEDFM_RUN_TAGS"
"""Environment variable with further tags of every run as a JSON object, e.g. ``mlflow.parentRunId``."""


def environment_tags() -> dict[str, str]:
    """Tags that the environment gives to every run.

    Raises:
        ValueError: the variable is there and holds no JSON object.
    """
    text = os.environ.get(RUN_TAGS, "")
    try:
        tags = json.loads(text) if text else {}
    except json.JSONDecodeError:
        tags = None
    if not isinstance(tags, dict):
        msg = f'environment variable {RUN_TAGS} must hold a JSON object such as {{"study": "mine"}}, but got {text!r}'
        raise ValueError(msg)
    return tags
