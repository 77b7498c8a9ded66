"""MLflow runs of a study: one parent per output folder, and what makes the runs of a cell its children."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from fairmedfm_monai.handlers.mlflow_environment import RUN_TAGS  # sets what MLflow reads
from fairmedfm_monai.reporting.files import write_atomic

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fairmedfm_monai.studies.cell import Cell

STUDY_FILE = "study.json"
OFF = "off"
_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Tracking:
    """Where the runs of a study go.

    Attributes:
        uri: of the tracking store, or ``off``.
        study: name of the study.
        parent: id of the parent run.
    """

    uri: str = OFF
    study: str = ""
    parent: str = ""

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return f"fairmedfm-study-{self.study}"


def claim_output(output: str | Path, study: str) -> None:
    """Note in ``study.json`` whose output a folder is.

    Raises:
        ValueError: it is that of another study, whose cells could have the same names.
    """
    with _study_file(output) as content:
        if content.setdefault("study", study) != study:
            msg = f"`output`: {output} holds the study {content['study']!r}; give another folder for {study!r}"
            raise ValueError(msg)


def open_parent(output: str | Path, study: str, *, title: str = "", tracking_uri: str | None = None) -> Tracking:
    """The parent run of this output folder: that of an earlier call as long as it is there, else a new one.

    Args:
        output: folder of the study; its ``study.json`` keeps the id.
        study: name of the study.
        title: its title.
        tracking_uri: None = ``MLFLOW_TRACKING_URI``, else ``<output>/mlruns.db``; ``off`` = no tracking.

    Returns:
        The tracking, ``off`` after a warning when the store cannot be used: the study goes on.
    """
    default = f"sqlite:///{Path(output).absolute() / 'mlruns.db'}"
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default
    if uri == OFF:
        return Tracking()
    tracking = Tracking(uri, study)
    try:
        with _study_file(output) as content:
            parents = content.setdefault("mlflow", {})
            store = hashlib.sha256(uri.encode()).hexdigest()[:16]  # an address may hold a password
            # MLflow itself would put the files of a database into the current folder, wherever that is.
            files = (Path(output).absolute() / "mlartifacts").as_uri() if uri == default else None
            parents[store] = _parent(tracking, title or study, known=parents.get(store), files=files)
            return Tracking(uri, study, parents[store])
    except Exception as error:
        _warn(uri, error)
        return Tracking()


def close_parent(tracking: Tracking, status: str) -> None:
    """End the parent run as FINISHED, FAILED or KILLED."""
    if tracking.uri == OFF:
        return
    try:
        _client(tracking.uri).set_terminated(tracking.parent, status)
    except Exception as error:
        _warn(tracking.uri, error)


@contextlib.contextmanager
def child_runs(tracking: Tracking, cell: Cell) -> Iterator[None]:
    """Within, every run of this process is a child of the study's and carries the cell's tags.

    Runs of the same cell that still count as running belong to a process that died; they end as KILLED. The caller
    must hold the lock of the cell.
    """
    if tracking.uri == OFF:
        yield
        return
    end_dead_runs(tracking, cell.key)
    tags = {
        _PARENT: tracking.parent,
        "study": tracking.study,
        "cell": cell.key,
        "dataset": cell.dataset,
        "fm": cell.fm,
        "usage": cell.usage,
        "seed": str(cell.seed),
    }
    before = os.environ.get(RUN_TAGS)
    os.environ[RUN_TAGS] = json.dumps(tags)
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_TAGS]
        else:
            os.environ[RUN_TAGS] = before


def end_dead_runs(tracking: Tracking, key: str) -> None:
    """End runs of a cell that still count as running as KILLED. The caller must hold the lock of the cell."""
    if tracking.uri == OFF:
        return
    try:
        client = _client(tracking.uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            return
        wanted = f"attributes.status = 'RUNNING' and tags.`{_PARENT}` = '{tracking.parent}' and tags.cell = '{key}'"
        for run in client.search_runs([experiment.experiment_id], wanted):
            client.set_terminated(run.info.run_id, "KILLED")
    except Exception as error:
        _warn(tracking.uri, error)


def _parent(tracking: Tracking, title: str, *, known: str | None, files: str | None) -> str:
    """The id of the known run, reopened, or of a new one."""
    from mlflow.exceptions import MlflowException

    client = _client(tracking.uri)
    if known is not None:
        try:
            client.update_run(known, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            return known
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        experiment_id = client.create_experiment(tracking.experiment, artifact_location=files)
    else:
        experiment_id = experiment.experiment_id
    run = client.create_run(experiment_id, run_name=tracking.study, tags={"study": tracking.study, "title": title})
    return str(run.info.run_id)


def _client(uri: str) -> MlflowClient:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def _warn(uri: str, error: Exception) -> None:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    warnings.warn(f"MLflow at {uri} cannot be used ({first_line[:300]}); the study goes on", stacklevel=3)


@contextlib.contextmanager
def _study_file(output: str | Path) -> Iterator[dict[str, Any]]:
    """The content of study.json to read and change; no other process touches it meanwhile."""
    file = Path(output) / STUDY_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{STUDY_FILE}.lock")):
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        before = json.dumps(content)
        yield content
        text = json.dumps(content, indent=2)
        if json.dumps(content) != before:
            write_atomic(file, lambda path: path.write_text(text + "\n", encoding="utf-8"))
