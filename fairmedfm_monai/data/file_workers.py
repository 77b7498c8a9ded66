"""Open the files of many cases in processes of their own: a decoder that crashes or hangs costs one case.

A process is asked for one case at a time, by one line of JSON on its standard input, and answers by one line. It is
started as ``python -m fairmedfm_monai.data.file_workers``, so that neither a fork nor a second import of the caller's
script is needed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from fairmedfm_monai.data.case_files import Finding, Rules, check_case

TIMEOUT = 300.0
"""Seconds that one case may take: a CT of 1,000 DICOM slices on a slow network drive does not."""

_START_TIME = 120.0  # seconds that a process may take to start
_MOST = 16  # processes; each may hold a whole volume
_READY = "ready"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")

Pair = tuple[str, str]  # image, mask or ""
_Result = tuple[int, list[Finding]]


def default_workers() -> int:
    """As many as this process may use cores, 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST)


def check_cases(
    pairs: Iterable[Pair], root: Path, rules: Rules, *, workers: int, timeout: float = TIMEOUT
) -> Generator[_Result, None, None]:
    """Check cases in parallel; memory does not grow with their number.

    Args:
        pairs: image and mask of each case, relative to the folder.
        root: the dataset folder.
        rules: what the files must be.
        workers: number of processes.
        timeout: seconds after which a case is given up.

    Yields:
        Position of a case and what was found, in the order of finishing.

    Raises:
        OSError: no process could be started.
    """
    todo, lock, stop = enumerate(pairs), threading.Lock(), threading.Event()
    results: queue.Queue[_Result | Exception | None] = queue.Queue(_MOST * workers)
    openers = [_Opener(root, rules, timeout) for _ in range(workers)]
    threads = [threading.Thread(target=_work, args=(opener, todo, lock, stop, results)) for opener in openers]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            while (result := results.get()) is not None:
                if isinstance(result, Exception):
                    raise result
                yield result
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            for opener in openers:
                opener.kill()
            _drain(results)
        for opener in openers:
            opener.close()


def _work(
    opener: _Opener,
    todo: Iterator[tuple[int, Pair]],
    lock: threading.Lock,
    stop: threading.Event,
    results: queue.Queue[_Result | Exception | None],
) -> None:
    """One thread: hand cases to its process until none is left."""
    try:
        while not stop.is_set():
            with lock:
                index, pair = next(todo, (-1, ("", "")))
            if index < 0:
                break
            results.put((index, opener.check(*pair)))
    except Exception as error:  # the main thread raises it
        results.put(error)
    results.put(None)


def _drain(results: queue.Queue[_Result | Exception | None]) -> None:
    """Take one result off, so that a thread that waits to put its own can end."""
    try:
        results.get(timeout=0.02)
    except queue.Empty:
        return


class _Opener:
    """A process that opens files; it is started anew after it died or was killed."""

    def __init__(self, root: Path, rules: Rules, timeout: float) -> None:
        self._setup = json.dumps([str(root), rules.spatial_dims, list(rules.values)])
        self._timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._too_slow = False

    def check(self, image: str, mask: str) -> list[Finding]:
        """What `check_case` finds, or that the files cannot be opened without harm."""
        if self._process is None:
            self._process = self._start()
        answer = self._ask(self._process, json.dumps([image, mask]), self._timeout)
        if answer:
            return [(kind, text) for kind, text in json.loads(answer)]
        reason = self._reason(self._process)
        self.close()
        return [("unreadable", f"{' or '.join(filter(None, (image, mask)))} ({reason})")]

    def kill(self) -> None:
        """End the process at once; may be called from another thread."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process and forget it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                _close(stream)
        process.wait()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", __name__]
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = os.environ | dict.fromkeys(_THREADS, "1") | {"PYTHONPATH": paths}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **pipes, text=True, encoding="ascii", env=environment)  # type: ignore[call-overload]  # noqa: S603
        if self._ask(process, self._setup, max(self._timeout, _START_TIME)).strip() != _READY:
            process.kill()
            msg = f"a process for opening images could not be started; `{' '.join(command)}` tells why"
            raise OSError(msg)
        return process

    def _ask(self, process: subprocess.Popen[str], line: str, timeout: float) -> str:
        """The process's answer; empty where it died or took too long."""
        self._too_slow = False
        alarm = threading.Timer(timeout, self._give_up, (process,))
        alarm.daemon = True
        alarm.start()
        try:
            questions, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
            questions.write(f"{line}\n")
            questions.flush()
            return answers.readline()
        except OSError:  # it died before it had read the line
            return ""
        finally:
            alarm.cancel()
            alarm.join()  # a cancelled timer's thread lives on for a moment

    def _give_up(self, process: subprocess.Popen[str]) -> None:
        self._too_slow = True
        process.kill()

    def _reason(self, process: subprocess.Popen[str]) -> str:
        code = process.wait()
        if self._too_slow:
            return f"opening it took longer than {self._timeout:g} s"
        if code >= 0:
            return f"its decoder ended with code {code}"
        name = signal.Signals(-code).name
        memory = ": is there enough memory?" if name == "SIGKILL" else ""
        return f"its decoder crashed, {name}{memory}"


def _close(stream: IO[str]) -> None:
    try:
        stream.close()
    except OSError:
        return  # what was still to be written has no reader any more


def serve() -> None:
    """The process: answer one line with one line until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which keeps the findings so far
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a decoder prints must not be taken for an answer
    root, dims, values = json.loads(sys.stdin.readline())
    rules = Rules(dims, tuple(values))
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        image, mask = json.loads(line)
        print(json.dumps(check_case(Path(root), image, mask, rules)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
