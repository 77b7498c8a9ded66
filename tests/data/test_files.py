from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.data import files
from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.case_files import Finding
from fairmedfm_monai.data.files import check_files, check_paths

# Python imports a module of this name in every new process: here it breaks a decoder on purpose.
CRASH = """
import os, signal, PIL.Image
read = PIL.Image.open
def broken(path, *more):
    name = os.path.basename(path)
    if name == "crash.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "exit.png":
        os._exit(7)
    return read(path, *more)
PIL.Image.open = broken
"""


@pytest.fixture
def card(card_dict: dict[str, Any]) -> Card:
    return Card.from_dict(card_dict)


def paths_found(root: Path, *images: str) -> dict[str, str]:
    return {problem.kind: problem.message for problem in check_paths(pd.DataFrame({"image": images}), root)}


def pictures(root: Path, *names: str) -> pd.DataFrame:
    for name in names:
        Image.fromarray(np.eye(9, 7, dtype=np.uint8)).save(root / name, format="png")
    return pd.DataFrame({"image": names})


def test_paths_through_folders(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.png").touch()
    assert paths_found(tmp_path, "a/b/c.png", "a/./b/c.png", "a/b/d.png", "x/y.png", "") == {
        "missing_file": "2 of 4 files of column 'image' are missing: a/b/d.png, x/y.png (1 folders are not there: x)"
    }


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a.png", "a/../../b.png", "C:\\data\\a.png", "~/a.png", "\\\\nas\\a"]
)
def test_paths_outside_are_refused(tmp_path: Path, path: str) -> None:
    found = paths_found(tmp_path, path)
    assert list(found) == ["path"]
    assert "paths inside the folder" in found["path"]


def test_dots_in_names_are_no_way_up(tmp_path: Path) -> None:
    (tmp_path / "a..b.png").touch()
    assert paths_found(tmp_path, "a..b.png") == {}


def test_files_of_kinds_that_no_reader_opens(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz", "c.GIF", "d.nii.gz", "e"):
        (tmp_path / name).touch()
    found = paths_found(tmp_path, "a.npz", "b.npz", "c.GIF", "d.nii.gz", "e")
    assert list(found) == ["file_kind"]
    assert ".npz (2), .gif (1): a.npz, b.npz, c.GIF. Readable are PNG" in found["file_kind"]


def test_a_good_folder_has_no_finding_however_many_workers(tmp_path: Path, card: Card) -> None:
    table = pictures(tmp_path, *(f"{index}.png" for index in range(5)))
    assert check_files(table, card, tmp_path, workers=1) == []
    assert check_files(table, card, tmp_path, workers=2) == []


def test_examples_stand_in_the_order_of_the_table(tmp_path: Path, card: Card) -> None:
    names = [f"{index}.png" for index in range(9)]
    for name in names:
        (tmp_path / name).touch()
    (problem,) = check_files(pd.DataFrame({"image": names}), card, tmp_path, workers=2)
    shown = ", ".join(f"{name} (the file is empty)" for name in names[:5])
    assert problem.message == f"9 files cannot be read: {shown} and 4 more"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_decoder_that_crashes_costs_one_case(tmp_path: Path, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    monkeypatch.syspath_prepend(str(tmp_path))
    table = pictures(tmp_path, "a.png", "crash.png", "b.png", "exit.png", "c.png")
    (tmp_path / "c.png").write_bytes(b"")
    (problem,) = check_files(table, card, tmp_path, workers=1)
    assert problem.message == (
        "3 files cannot be read: crash.png (its decoder crashed, SIGSEGV), exit.png (its decoder ended with code 7), "
        "c.png (the file is empty)"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_file_that_hangs_costs_its_time(tmp_path: Path, card: Card) -> None:
    table = pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")  # opening waits for a writer that never comes
    (tmp_path / "c.png").write_bytes(b"")
    (problem,) = check_files(table, card, tmp_path, workers=1, timeout=3.0)
    assert problem.message == (
        "2 files cannot be read: b.png (opening it took longer than 3 s), c.png (the file is empty)"
    )


def test_ctrl_c_keeps_the_findings(tmp_path: Path, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> Iterator[tuple[int, list[Finding]]]:
        yield 0, [("unreadable", "a.png (x)")]
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "check_cases", stopped)
    first, second = check_files(pd.DataFrame({"image": ["a.png", "b.png"]}), card, tmp_path)
    assert first.message == "1 files cannot be read: a.png (x)"
    assert second.message == "stopped by the user after 1 of 2 cases: the others were not opened"
    assert second.level == "error"


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_bad_numbers_of_workers(tmp_path: Path, card: Card, workers: Any) -> None:
    with pytest.raises(ValueError, match="`workers` must be a whole number"):
        check_files(pd.DataFrame({"image": ["a"]}), card, tmp_path, workers=workers)


def test_the_bar_goes_to_stderr(tmp_path: Path, card: Card, capfd: pytest.CaptureFixture[str]) -> None:
    check_files(pictures(tmp_path, "a.png", "b.png"), card, tmp_path, workers=1, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "2/2" in err


def test_nothing_to_open(tmp_path: Path, card: Card) -> None:
    assert check_files(pd.DataFrame({"image": ["", "../up.png"]}), card, tmp_path) == []
    assert check_files(pd.DataFrame({"case_id": ["a"]}), card, tmp_path) == []
