from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from fairmedfm_monai.handlers.privacy import hash_id
from fairmedfm_monai.handlers.prompt_log import prompts_of, write_prompts

PROMPT = {"kind": "point-k2", "label": "liver", "coords": [[3, 4]], "point_labels": [1]}


def case() -> dict[str, object]:
    return {"image": MetaTensor(torch.zeros(1, 9, 9), meta={"source_prompts": json.dumps([PROMPT])})}


def test_prompts_are_saved_in_the_form_of_user_prompts(tmp_path: Path) -> None:
    found = prompts_of(case(), "case7")
    write_prompts([*found, *found], tmp_path, salt="pepper", log_cases=True)  # twice: a case that a sampler repeats
    assert json.loads((tmp_path / "prompts.json").read_text(encoding="utf-8")) == [
        {"case_id": "case7", "space": "voxel", **PROMPT}
    ]


@pytest.mark.parametrize(("log_cases", "file"), [(False, "prompts.json"), (True, "prompts_hashed.json")])
def test_ids_are_hashed_with_a_salt(tmp_path: Path, log_cases: bool, file: str) -> None:
    write_prompts(prompts_of(case(), "case7"), tmp_path, salt="pepper", log_cases=log_cases)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert "case7" not in text
    assert json.loads(text)[0]["case_id"] == hash_id("case7", "pepper")


def test_cases_without_prompts_write_nothing(tmp_path: Path) -> None:
    write_prompts(prompts_of({"image": torch.zeros(1, 2, 2)}, "case7"), tmp_path, salt="pepper", log_cases=True)
    assert list(tmp_path.iterdir()) == []
