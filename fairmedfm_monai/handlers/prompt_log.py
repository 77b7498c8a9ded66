"""The prompts of an evaluation, saved so that it can be audited and repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairmedfm_monai.reporting.files import HASHED_PROMPTS_FILE, PROMPTS_FILE, write_atomic

from .privacy import hash_id

# Where PromptsToMetad keeps the prompts as they were made, in voxel indices of the image file.
SOURCE_KEY = "source_prompts"


def prompts_of(case: Mapping[str, Any], case_id: str) -> list[dict[str, Any]]:
    """The prompts of a decollated case, each with its case id."""
    meta = getattr(case.get("image"), "meta", None) or {}
    text = meta.get(SOURCE_KEY)
    prompts = json.loads(text) if text else []
    return [{"case_id": case_id, "space": "voxel", **prompt} for prompt in prompts]


def write_prompts(prompts: Sequence[Mapping[str, Any]], folder: str | Path, *, salt: str, log_cases: bool) -> None:
    """Write ``prompts.json``, in the form that user prompts have, if there is any prompt.

    Args:
        prompts: from :func:`prompts_of`, of all cases.
        folder: output folder.
        salt: for hashed case ids.
        log_cases: keep real case ids, and make a copy with hashed ones that may be tracked.
    """
    if not prompts:
        return
    _write(prompts, Path(folder) / PROMPTS_FILE, None if log_cases else salt)
    if log_cases:
        _write(prompts, Path(folder) / HASHED_PROMPTS_FILE, salt)


def _write(prompts: Sequence[Mapping[str, Any]], path: Path, salt: str | None) -> None:
    named = [
        dict(prompt) if salt is None else {**prompt, "case_id": hash_id(str(prompt["case_id"]), salt)}
        for prompt in prompts
    ]
    # One prompt per line: people look at this file, and tools compare it. Samplers of several processes repeat cases.
    lines = dict.fromkeys(json.dumps(prompt) for prompt in named)
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))
