from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairmedfm_monai.data.files import check_paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset folder whose link ``source`` points to a release with six films of three patients."""
    for patient in range(3):
        folder = tmp_path / "release/train" / f"patient{patient}" / "study1"
        folder.mkdir(parents=True)
        for view in (1, 2):
            (folder / f"view{view}.jpg").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/source").symlink_to(tmp_path / "release", target_is_directory=True)
    return tmp_path / "folder"


@pytest.fixture
def table() -> pd.DataFrame:
    images = [f"source/train/patient{patient}/study1/view{view}.jpg" for patient in range(3) for view in (1, 2)]
    return pd.DataFrame({"image": images, "mask": images})


def found(table: pd.DataFrame, root: Path) -> dict[str, str]:
    problems = check_paths(table, root)
    assert len({problem.kind for problem in problems}) == len(problems), problems
    return {problem.kind: problem.message for problem in problems}


def test_paths_through_a_link(root: Path, table: pd.DataFrame) -> None:
    assert found(table, root) == {}


def test_a_broken_link_is_told_once(root: Path, table: pd.DataFrame) -> None:
    (root.parent / "release").rename(root.parent / "moved")
    table.loc[0, "image"] = "images/a.jpg"
    problems = found(table[["image"]], root)
    assert set(problems) == {"broken_link", "missing_file"}
    assert (
        f"the link 'source' points to {root.parent / 'release'}, which is not there: 5 files" in problems["broken_link"]
    )
    assert f"ln -sfn /path/of/the/data {root / 'source'}" in problems["broken_link"]
    assert "1 of 6 files" in problems["missing_file"]


def test_images_and_masks_behind_one_broken_link_are_one_problem(root: Path, table: pd.DataFrame) -> None:
    shutil.rmtree(root.parent / "release")
    assert list(found(table, root)) == ["broken_link"]


def test_a_relative_target_is_told_from_the_link(root: Path, table: pd.DataFrame) -> None:
    (root / "source").unlink()
    (root / "source").symlink_to("../gone")
    assert f"points to {root.parent / 'gone'}," in found(table[["image"]], root)["broken_link"]


def test_a_link_to_the_wrong_level(root: Path, table: pd.DataFrame) -> None:
    (root / "source").unlink()
    (root / "source").symlink_to(root.parent / "release/train", target_is_directory=True)
    message = found(table[["image"]], root)["missing_file"]
    assert message.startswith("6 of 6 files")
    assert f"'source' is a link to {root.parent / 'release/train'}; is that the right folder level" in message
    assert "3 folders are not there: source/train/patient0/study1" in message


def test_links_to_single_files(root: Path) -> None:
    (root / "a.jpg").symlink_to(root / "source/train/patient0/study1/view1.jpg")
    (root / "b.jpg").symlink_to(root / "nowhere.jpg")
    assert (
        "1 of 2 files of column 'image' are missing: b.jpg"
        in found(pd.DataFrame({"image": ["a.jpg", "b.jpg"]}), root)["missing_file"]
    )


def test_a_folder_that_may_not_be_read(root: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def guarded(path: str) -> Any:
        if "patient1" in path:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert found(table[["image"]], root) == {
        "denied": "1 folders may not be read (2 files in them): source/train/patient1/study1; get the right to read "
        "them (ls -l shows the owner)"
    }


@pytest.mark.skipif(os.sep != "/", reason="there the separators mean the same")
def test_separators_of_windows(root: Path) -> None:
    (root / "images").mkdir()
    (root / "images/a.png").touch()
    assert "write '/' between folders" in found(pd.DataFrame({"image": ["images\\a.png"]}), root)["missing_file"]
