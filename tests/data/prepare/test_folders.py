"""The right level of a release folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairmedfm_monai.data import DatasetError
from fairmedfm_monai.data.prepare.folders import check_release, index_files, one_of

NEEDS = ("meta.csv|meta.xlsx", "images*")
LAYOUT = {"meta.csv": "the table", "images/": "the pictures"}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "download" / "release-1.0"
    (folder / "images_01" / "a").mkdir(parents=True)
    (folder / "meta.xlsx").touch()
    return folder


def test_right_level(release: Path) -> None:
    assert check_release(release, NEEDS, LAYOUT) == release
    assert one_of(release, NEEDS[0]).name == "meta.xlsx"


@pytest.mark.parametrize("given", ["..", ".", "images_01", "images_01/a"])
def test_wrong_level_names_the_right_one(release: Path, given: str) -> None:
    start = release if given != ".." else release.parent
    if given == ".":
        start = release.parent.parent
    elif given.startswith("images"):
        start = release / given
    with pytest.raises(DatasetError, match=f"wrong level of the release: give {release}"):
        check_release(start, NEEDS, LAYOUT)


def test_what_is_missing_and_expected(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match=r"(?s)lacks meta\.csv or meta\.xlsx; it holds images.*the table"):
        check_release(tmp_path, NEEDS, LAYOUT)
    with pytest.raises(DatasetError, match="not there"):
        check_release(tmp_path / "absent", NEEDS, LAYOUT)
    (tmp_path / "release.zip").touch()
    with pytest.raises(DatasetError, match="unpack"):
        check_release(tmp_path / "release.zip", NEEDS, LAYOUT)


def test_index_refuses_two_files_of_one_name(release: Path) -> None:
    (release / "images_01" / "x.png").touch()
    assert index_files(release, suffixes=(".png",)) == {"x.png": "images_01/x.png"}
    (release / "images_01" / "a" / "x.png").touch()
    with pytest.raises(DatasetError, match=r"more than one folder: x\.png"):
        index_files(release, suffixes=(".png",))
