from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException

from tests import processes
from tests.processes import run_ranks


def fails(rank: int) -> None:
    sys.stderr.write("said before\n")
    msg = f"rank {rank} does not like it"
    raise ValueError(msg)


def killed_once(rank: int, marker: str) -> None:
    """End by a signal the first time, as gloo does when it aborts."""
    del rank
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGABRT)


def test_a_failure_is_told_with_stderr_and_not_tried_again() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match=r"rank 0 does not like it(.|\n)*stderr of rank 0:\nsaid before"):
            run_ranks(fails, world_size=1)


def test_processes_killed_by_a_signal_are_started_once_more(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"once more: .*SIGABRT(.|\n)*in killed_once"):
        run_ranks(killed_once, str(tmp_path / "marker"), world_size=1)


def test_a_second_signal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = ProcessExitedException("gone", 0, 1, -6, "SIGABRT")
    tries = []
    monkeypatch.setattr(processes, "_attempt", lambda *_: tries.append(1) or (aborted, "the words"))
    with pytest.warns(UserWarning, match="once more"), pytest.raises(RuntimeError, match="the words"):
        run_ranks(fails)
    assert len(tries) == 2
