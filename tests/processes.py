"""Several processes in a test: workers of torch.distributed, and torchrun as a user calls it."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

LIMIT = 500
"""Seconds after which processes that wait for each other are ended."""


def run_ranks(worker: Callable[..., None], *args: Any, world_size: int = 2) -> None:
    """Call ``worker(rank, *args)`` in new processes that are one gloo group.

    Args:
        worker: function of a module; what it finds out it writes to files.
        *args: what can be pickled.
        world_size: number of processes.

    Raises:
        RuntimeError: a process failed; holds what the processes wrote to stderr.
    """
    error, told = _attempt(worker, args, world_size)
    if isinstance(error, mp.ProcessExitedException) and error.signal_name:
        # Not a failure in Python, but a process that was killed: gloo itself aborted once on a busy machine and never
        # again in hundreds of runs. A fault of ours would come back.
        warnings.warn(f"processes are started once more: {told}", stacklevel=2)
        error, told = _attempt(worker, args, world_size)
    if error is not None:
        raise RuntimeError(told) from error


def _attempt(
    worker: Callable[..., None], args: tuple[Any, ...], world_size: int
) -> tuple[ProcessException | None, str]:
    """What went wrong, and the words for it; None and no word when nothing did."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mp.spawn(_rank, (worker, args, world_size, folder), nprocs=world_size)
        except ProcessException as error:
            return error, f"{error}{_written(Path(folder))}"
    return None, ""


def _rank(rank: int, worker: Callable[..., None], args: tuple[Any, ...], world_size: int, folder: str) -> None:
    with Path(folder, f"stderr{rank}").open("wb") as stderr:
        os.dup2(stderr.fileno(), 2)
    faulthandler.enable()
    # A file, because a port that is free now may be taken when it is needed.
    store = dist.FileStore(f"{folder}/rendezvous", world_size)
    limit = timedelta(seconds=LIMIT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        worker(rank, *args)
        dist.barrier()  # who goes first takes its connections away from those that still talk
    finally:
        dist.destroy_process_group()


def _written(folder: Path) -> str:
    files = sorted(folder.glob("stderr*"))
    return "".join(
        f"\n-- stderr of rank {file.name.removeprefix('stderr')}:\n{file.read_text(errors='replace')[-4000:]}"
        for file in files
    )


def torchrun(bundle: Path, *arguments: str, configs: tuple[str, ...] = ("train", "multi_gpu_train")) -> None:
    """Run a bundle in two processes, with tracking off.

    Args:
        bundle: its folder.
        *arguments: of the command line.
        configs: names of its configurations.

    Raises:
        RuntimeError: it failed or took too long; holds the end of its output.
    """
    files = "[" + ",".join(f"'configs/{name}.json'" for name in configs) + "]"
    # `--standalone` binds the rendezvous to a port that the system chooses, and the workers share its store.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "monai.bundle", "run", "--config_file", files, "--tracking_uri", "off", *arguments]
    code, output = _ended(command, bundle)
    if code != 0 and re.search(r"failed \(exitcode: -\d+\)", output):
        # As above: gloo's threads outlive their group (torch 2.15), and one aborted once at the exit of a worker that
        # had finished.
        warnings.warn(f"torchrun is started once more: {output[-6000:]}", stacklevel=2)
        code, output = _ended(command, bundle)
    if code != 0:
        raise RuntimeError(output[-6000:])


def _ended(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a command that gets a process group of its own."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the workers too
        output = f"{process.communicate()[0]}\nended after {LIMIT} s"
    return process.returncode, output
