from __future__ import annotations

from pathlib import Path

import pytest

from fairmedfm_monai.data import inference_cases


def test_a_folder_of_images_needs_no_manifest(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "sub/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    cases = inference_cases(tmp_path)
    assert [case["case_id"] for case in cases] == ["b", "sub/a"]
    assert all(Path(case["image"]).is_file() and case["failed"] == "" for case in cases)


def test_one_image_is_one_case(tmp_path: Path) -> None:
    (tmp_path / "scan.NII.GZ").write_bytes(b"x")
    assert [case["case_id"] for case in inference_cases(tmp_path / "scan.NII.GZ")] == ["scan"]


def test_an_empty_folder_says_what_it_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a dataset folder or hold images"):
        inference_cases(tmp_path)


def test_a_dataset_folder_gives_its_split(xray_dir: Path) -> None:
    assert len(inference_cases(xray_dir, split="test")) == 48
    assert len(inference_cases(xray_dir, split=["val", "test"])) == 72
    assert len(inference_cases(xray_dir, split=None)) == 96
