"""Processes that run one cell after the other: what costs seconds to import is imported once, a crash costs a cell."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fairmedfm_monai.studies.execute import DONE, FAILED, Outcome, Setting, execute
from fairmedfm_monai.studies.jobs import Job, job_folder, lock_file, state
from fairmedfm_monai.studies.logs import reason
from fairmedfm_monai.studies.tracking import end_dead_runs

if TYPE_CHECKING:
    from fairmedfm_monai.studies.plan import PlannedCell

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_PATIENCE = 20.0  # seconds that a process may take to end its cell in order
_CONTEXT = multiprocessing.get_context("spawn")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Some processes and the cells that they are at.

    Args:
        number: of processes, at least 1; each is started when it is first needed.
        setting: of all cells.

    Attributes:
        threads: of torch in each process: its share of the cores, and no more than ``OMP_NUM_THREADS`` says.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(self, number: int, setting: Setting) -> None:
        if number < 1:
            msg = f"`jobs` must be a number of processes, 1 or more, but got {number}"
            raise ValueError(msg)
        given = os.environ.get("OMP_NUM_THREADS", "")
        cores = min(usable_cores(), int(given)) if given.isdigit() and int(given) else usable_cores()
        self.threads = max(1, min(cores, usable_cores() // number))
        self._setting = setting
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, PlannedCell] = {}
        self._number = number

    @property
    def free(self) -> int:
        """How many more cells can run at once."""
        return self._number - len(self._busy)

    def submit(self, planned: PlannedCell) -> None:
        """Give a cell to a free process."""
        self._idle = [worker for worker in self._idle if worker.alive]
        worker = self._idle.pop() if self._idle else _Worker(self._setting, self.threads)
        worker.begin(planned)
        self._busy[worker] = planned

    def wait(self, seconds: float | None = None) -> list[Outcome]:
        """The cells that ended; waits for the first of them, or some seconds at most."""
        ready = set(wait([handle for worker in self._busy for handle in worker.handles], seconds))
        outcomes = []
        for worker in [worker for worker in self._busy if ready & set(worker.handles)]:
            planned = self._busy.pop(worker)
            outcomes.append(worker.end() or _died(planned, self._setting, worker.exit_code))
            self._idle.append(worker)
        return outcomes

    def close(self) -> None:
        """End all processes, busy ones after they have left their cells in order."""
        workers = [*self._idle, *self._busy]
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(_PATIENCE)
        for planned in self._busy.values():
            self._end_runs(planned.cell.key)
        self._idle, self._busy = [], {}

    def _end_runs(self, key: str) -> None:
        """A process that had to be killed could not end its run."""
        with suppress(Timeout), FileLock(lock_file(self._setting.output.absolute(), key), blocking=False):
            end_dead_runs(self._setting.tracking, key)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """One process."""

    def __init__(self, setting: Setting, threads: int) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process: SpawnProcess = _CONTEXT.Process(target=_serve, args=(theirs, setting, threads), daemon=False)
        with _environment(dict.fromkeys(_THREADS, str(threads))):
            self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    @property
    def handles(self) -> Sequence[Any]:
        """What becomes ready when the cell ends or the process dies."""
        return [self._connection, self._process.sentinel]

    @property
    def exit_code(self) -> int | None:
        """Of a process that has ended; the negative number of a signal."""
        return self._process.exitcode

    def begin(self, planned: PlannedCell) -> None:
        """Send a cell."""
        with suppress(OSError):  # a process that has died shows by its sentinel
            self._connection.send(planned)

    def end(self) -> Outcome | None:
        """How its cell ended, None when the process died."""
        try:
            outcome: Outcome = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return None
        return outcome

    def stop(self) -> None:
        """Ask it to end: SIGTERM interrupts its cell."""
        self._connection.close()
        self._process.terminate()

    def join(self, seconds: float) -> None:
        """Wait for its end; after some seconds kill it."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _died(planned: PlannedCell, setting: Setting, code: int | None) -> Outcome:
    """The outcome of a cell whose process ended without an answer."""
    key = planned.cell.key
    job = Job(job_folder(setting.output.absolute(), key), planned.settings_hash)
    if state(job.folder, job.hash) == "done":
        return Outcome(key, DONE, message="its process died after it")
    if code is not None and code < 0:
        how = f"signal {-code} ({signal.Signals(-code).name})"
        how += ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    else:
        how = f"exit code {code}"
    message = f"its process ended by {how}"
    job.fail("process", message)
    return Outcome(key, FAILED, message=f"process: {message}")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for processes that start within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(connection: Connection, setting: Setting, threads: int) -> None:
    """Main function of a process: run the cells that come, until none does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent then says what to do
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        import monai.bundle  # noqa: F401 - takes seconds, which are none of the first cell's
        import torch

        torch.set_num_threads(threads)
        while True:
            connection.send(_run(connection.recv(), setting))
            gc.collect()


def _run(planned: PlannedCell, setting: Setting) -> Outcome:
    try:
        return execute(planned, setting, wait=False)
    except Exception as error:  # not the cell's own, which are outcomes: a folder that cannot be written, above all
        return Outcome(planned.cell.key, FAILED, message=reason(error))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A killed study must not go on in its processes: a new one would meet them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
