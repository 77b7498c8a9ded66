"""Shared by all tests: one thread per worker, a home of its own, one MLflow file, small phantom datasets."""

from __future__ import annotations

import os

# Two workers on two cores: more threads only get into each other's way. Must stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FAIRMEDFM_DEMO_SCAN"] = "phantom"

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run every bundle, not only the covering set")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and report as deselected, what only ``--full`` runs."""
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of the session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def session_home(shared_dir: Path) -> Iterator[Path]:
    """Caches of the tests never touch the user's."""
    before = os.environ.get("FAIRMEDFM_HOME")
    os.environ["FAIRMEDFM_HOME"] = str(shared_dir / "home")
    yield shared_dir / "home"
    if before is None:
        del os.environ["FAIRMEDFM_HOME"]
    else:
        os.environ["FAIRMEDFM_HOME"] = before


@pytest.fixture(scope="session")
def tracking_uri(shared_dir: Path, worker_id: str) -> str:
    """One MLflow database per worker: making one costs seconds."""
    return f"sqlite:///{shared_dir / f'mlruns-{worker_id}.db'}"


def _once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder unless another worker has."""
    from filelock import FileLock

    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(folder)
    return folder


@pytest.fixture(scope="session")
def xray_dir(shared_dir: Path) -> Path:
    """Radiographs of a phantom: 24 train, 24 val, 48 test."""
    from fairmedfm_monai.data.demo import make_xray
    from fairmedfm_monai.data.demo.phantom import make_phantom

    return _once(
        shared_dir / "xray",
        lambda folder: make_xray(folder, scan=make_phantom(), n_train=24, n_val=24, n_test=48),
    )


@pytest.fixture(scope="session")
def ct2d_dir(shared_dir: Path) -> Path:
    """CT slices of a phantom: 6 train, 4 val, 6 test."""
    from fairmedfm_monai.data.demo import make_ct2d
    from fairmedfm_monai.data.demo.phantom import make_phantom

    return _once(
        shared_dir / "ct2d", lambda folder: make_ct2d(folder, scan=make_phantom(), n_train=6, n_val=4, n_test=6)
    )


@pytest.fixture(scope="session")
def ct3d_dir(shared_dir: Path) -> Path:
    """CT volumes of a phantom: 2 train, 1 val, 3 test and the phantom itself."""
    from fairmedfm_monai.data.demo import make_ct3d
    from fairmedfm_monai.data.demo.phantom import make_phantom

    small = make_phantom((96, 96, 40))
    return _once(shared_dir / "ct3d", lambda folder: make_ct3d(folder, scan=small, n_train=2, n_val=1, n_test=3))


@pytest.fixture(scope="session")
def ct_nodules_dir(shared_dir: Path) -> Path:
    """CT volumes of a phantom with and without a nodule: 4 train, 4 val, 4 test."""
    from fairmedfm_monai.data.demo import make_ct_nodules
    from fairmedfm_monai.data.demo.phantom import make_phantom

    small = make_phantom((96, 96, 40))
    return _once(
        shared_dir / "ct-nodules", lambda folder: make_ct_nodules(folder, scan=small, n_train=4, n_val=4, n_test=4)
    )
