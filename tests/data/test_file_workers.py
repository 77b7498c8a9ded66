from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairmedfm_monai.data import file_workers
from fairmedfm_monai.data.case_files import Rules
from fairmedfm_monai.data.file_workers import Pair, check_cases, default_workers

RULES = Rules(2)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Every process that is started."""
    processes: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def recorded(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    return processes


def test_every_case_is_answered_once(tmp_path: Path) -> None:
    for index in range(7):
        (tmp_path / f"{index}.png").touch()
    results = dict(check_cases([(f"{index}.png", "") for index in range(9)], tmp_path, RULES, workers=2))
    assert sorted(results) == list(range(9))
    assert [bool(results[index]) for index in range(9)] == [True] * 7 + [False] * 2  # the last two are not there
    assert results[3] == [("unreadable", "3.png (the file is empty)")]


def test_names_of_any_script(tmp_path: Path) -> None:
    name = "Röntgen 影像\n.png"
    (tmp_path / name).touch()
    assert list(check_cases([(name, "")], tmp_path, RULES, workers=1)) == [
        (0, [("unreadable", f"{name} (the file is empty)")])
    ]


def test_cases_are_drawn_as_they_are_needed(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    """Memory does not grow with the number of cases; an early end leaves no thread and no process."""
    drawn = 0

    def endless() -> Iterator[Pair]:
        nonlocal drawn
        while True:
            drawn += 1
            yield ("none.png", "")

    threads = threading.active_count()
    results = check_cases(endless(), tmp_path, RULES, workers=2)
    for _ in range(50):
        next(results)
    assert drawn < 200
    results.close()
    assert threading.active_count() == threads
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_a_process_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_workers, "__name__", "fairmedfm_monai.no_such_module")
    with pytest.raises(OSError, match=r"could not be started; `.*no_such_module` tells why"):
        list(check_cases([("a.png", "")], tmp_path, RULES, workers=2))


def test_default_number() -> None:
    assert 1 <= default_workers() <= 16
