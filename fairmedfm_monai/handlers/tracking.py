"""MLflow tracking of bundle runs: one run per bundle run, aggregates only, and never the reason a run dies."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .mlflow_environment import environment_tags  # sets what MLflow reads when it is imported

# isort: split
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from monai.handlers.mlflow_handler import mlflow

from fairmedfm_monai.reporting.files import AGGREGATE_FILES, HASHED_FILE, HASHED_PROMPTS_FILE

from .mlflow_values import clean_tags, loggable

logger = logging.getLogger(__name__)

OFF = "off"


def unique_run_name(prefix: str) -> str:
    """Name a run so that MONAI's handler never adopts an older unfinished run of the same name.

    Args:
        prefix: usually the bundle's name.

    Returns:
        ``<prefix>-<YYYYmmdd-HHMMSS>-<six random hex digits>``.
    """
    return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """Turn any failure of the tracking store into one warning; the run goes on untracked."""

    @functools.wraps(method)
    def guarded(self: TrackingHandler, *args: Any) -> None:
        if self.disabled:
            return
        try:
            method(self, *args)
        except Exception as error:
            self._give_up(error)

    return guarded


class TrackingHandler(MLFlowHandler):
    """MONAI's ``MLFlowHandler`` with tags, a FAILED status, finite metrics only and an explicit list of artifacts.

    Acts on rank 0 only. Stands down when the engine also carries MONAI's own handler (``--tracking mlflow``). A store
    that cannot be reached ends tracking, not the run: the message says how to log the results later.

    Args:
        tracking_uri: ``sqlite:///<file>``, ``http(s)://...`` or ``off``. Unlike in MONAI's handler a given address
            wins over ``MLFLOW_TRACKING_URI``, so that ``--tracking_uri`` does what it says.
        experiment_name: experiments compare models on a dataset, hence ``fairmedfm-<dataset>``.
        run_name: unique per run, shared by the handlers of one run (see :func:`unique_run_name`).
        tags: run tags; values are made strings, lists are joined by ``; ``, None and empty values are left out.
            Those of the environment (``FAIRMEDFM_RUN_TAGS``, a JSON object) come on top: with ``mlflow.parentRunId``
            a run becomes the child of another.
        output_dir: folder of an evaluation (``engine.state.output_dir`` wins when a FairnessHandler has set it): its
            tables, report, model card and ``run.json`` are uploaded at the end, nothing that names a case.
        log_cases: upload the predictions of ``output_dir`` too, with hashed ids.
        artifacts: further files (no folders) to upload. Files that are not there are skipped.
        close_on_complete: end the run as FINISHED when this engine completes (trainer or lone evaluator).
        kwargs: further arguments of ``MLFlowHandler`` (``iteration_log``, ``output_transform``, ``tag_name``, ...).

    Raises:
        ValueError: from MONAI, for a ``file://`` address or a plain path, which MLflow no longer supports.
    """

    _unreachable: ClassVar[set[str]] = set()

    @classmethod
    def try_again(cls) -> None:
        """Forget which stores could not be reached: for a process that goes on to an unrelated run."""
        cls._unreachable.clear()

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment_name: str = "fairmedfm",
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        output_dir: str | Path | None = None,
        log_cases: bool = False,
        artifacts: Sequence[str | Path] | str | Path | None = None,
        close_on_complete: bool = False,
        **kwargs: Any,
    ) -> None:
        self.tags = clean_tags({**(tags or {}), **environment_tags()})
        default = f"sqlite:///{Path('mlruns.db').resolve()}"
        self.address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default
        self.files = [artifacts] if isinstance(artifacts, (str, Path)) else list(artifacts or [])
        self.experiment_name = experiment_name
        self.cur_run: Any = None
        self.output_dir = None if output_dir is None else str(output_dir)
        self.log_cases = log_cases
        self.disabled = tracking_uri == OFF or not _is_rank0() or self.address in self._unreachable
        if self.disabled:
            return
        run_name = run_name or unique_run_name("run")
        kwargs |= {"experiment_name": experiment_name, "run_name": run_name, "close_on_complete": close_on_complete}
        try:
            with _argument_wins(tracking_uri):
                super().__init__(tracking_uri=tracking_uri, **kwargs)
        except ValueError:
            raise
        except Exception as error:  # a database that cannot be opened fails as early as here
            self._give_up(error)

    def attach(self, engine: Engine) -> None:
        """Register with an engine, unless tracking is off; list this handler before StatsHandler."""
        if self.disabled:
            return
        super().attach(engine)
        if not engine.has_event_handler(self.exception_raised, Events.EXCEPTION_RAISED):
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.exception_raised)

    @_guarded
    def start(self, engine: Engine) -> None:
        """Find or open the run and tag it (STARTED)."""
        if _has_monai_handler(engine):
            logger.info("MONAI's own MLFlowHandler tracks this run; TrackingHandler stands down")
            self.disabled = True
            return
        super().start(engine)
        if self.close_on_complete:  # Ctrl-C and exit calls pass by Ignite's exception event
            atexit.register(self._abandon)
        tags = [mlflow.entities.RunTag(key, value) for key, value in self.tags.items()]
        self.client.log_batch(run_id=self.cur_run.info.run_id, metrics=[], params=[], tags=tags)

    @_guarded
    def epoch_completed(self, engine: Engine) -> None:
        """Log ``engine.state.metrics`` in one call (EPOCH_COMPLETED)."""
        self.output_dir = getattr(engine.state, "output_dir", None) or self.output_dir
        super().epoch_completed(engine)

    @_guarded
    def iteration_completed(self, engine: Engine) -> None:
        """Log the loss of an iteration (ITERATION_COMPLETED)."""
        super().iteration_completed(engine)

    @_guarded
    def complete(self, engine: Engine) -> None:
        """Upload the listed files (COMPLETED)."""
        if self.cur_run is None:
            return
        for file in self._uploads():
            if Path(file).is_dir():
                logger.warning("artifact %s is a folder and is not logged: list its files one by one", file)
            elif Path(file).is_file():
                self.client.log_artifact(self.cur_run.info.run_id, str(file))

    def _uploads(self) -> list[str | Path]:
        names = [*AGGREGATE_FILES, *([HASHED_FILE, HASHED_PROMPTS_FILE] if self.log_cases else [])]
        return [*([Path(self.output_dir) / name for name in names] if self.output_dir else []), *self.files]

    @_guarded
    def close(self) -> None:
        """End the run as FINISHED and let go of the database."""
        super().close()

    def exception_raised(self, engine: Engine, error: Exception) -> None:
        """Mark the run FAILED (EXCEPTION_RAISED); raises only when no later handler would.

        Ignite swallows an exception as soon as one handler listens to it. MONAI's StatsHandler raises again, so this
        handler leaves that to the handlers listed after it.
        """
        self._fail()
        if _event_handlers(engine, Events.EXCEPTION_RAISED)[-1] == self.exception_raised:
            raise error

    @_guarded
    def _fail(self) -> None:
        self._terminate("FAILED")

    @_guarded
    def _abandon(self) -> None:
        self._terminate("KILLED")

    def _terminate(self, status: str) -> None:
        if self.cur_run is not None:
            self.client.set_terminated(self.cur_run.info.run_id, status)
            self.cur_run = None

    def _log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super()._log_metrics(loggable(metrics), step=step)

    def _give_up(self, error: Exception) -> None:
        self.disabled = True
        self.cur_run = None
        self._unreachable.add(self.address)
        where = self.output_dir or "OUTPUT_DIR"
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning(
            "MLflow at %s cannot be used (%s). The run goes on and writes its files as usual. To log them later: "
            'python -c "from fairmedfm_monai.handlers import log_output_dir; log_output_dir(%r, %r, %r)"',
            self.address,
            first_line[:300],
            where,
            self.address,
            self.experiment_name,
        )


def log_output_dir(
    output_dir: str | Path,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    *,
    run_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
) -> str:
    """Log a finished output folder to MLflow afterwards: metrics and tags of ``run.json`` and the aggregate files.

    Args:
        output_dir: folder with ``run.json`` as an evaluation wrote it.
        tracking_uri: as for :class:`TrackingHandler`; None = ``MLFLOW_TRACKING_URI`` or MLflow's default.
        experiment_name: None = ``fairmedfm-<dataset>`` of ``run.json``.
        run_name: None = a new unique name.
        tags: beside those of ``run.json``, which win.

    Returns:
        The id of the new MLflow run.

    Raises:
        FileNotFoundError: when there is no ``run.json`` in the folder.
    """
    folder = Path(output_dir)
    if not (folder / "run.json").is_file():
        msg = f"`output_dir` must hold the run.json of a finished evaluation, but {folder / 'run.json'} does not exist"
        raise FileNotFoundError(msg)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    experiment_name = experiment_name or f"fairmedfm-{run.get('dataset', 'unknown')}"
    experiment = client.get_experiment_by_name(experiment_name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(experiment_name)
    name = run_name or unique_run_name(folder.name)
    all_tags = clean_tags({**(tags or {}), **run.get("tags", {}), **environment_tags()})
    run_id = str(client.create_run(experiment_id, run_name=name, tags=all_tags).info.run_id)
    now = int(time.time() * 1000)
    metrics = [mlflow.entities.Metric(key, value, now, 0) for key, value in loggable(run.get("metrics", {})).items()]
    client.log_batch(run_id, metrics=metrics)
    for file in AGGREGATE_FILES:
        if (folder / file).is_file():
            client.log_artifact(run_id, str(folder / file))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _is_rank0() -> bool:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return bool(dist.get_rank() == 0)
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def _argument_wins(tracking_uri: str | None) -> Iterator[None]:
    """Hide ``MLFLOW_TRACKING_URI`` while a client for an explicitly given address is made."""
    hidden = os.environ.pop("MLFLOW_TRACKING_URI", None) if tracking_uri else None
    try:
        yield
    finally:
        if hidden is not None:
            os.environ["MLFLOW_TRACKING_URI"] = hidden


def _event_handlers(engine: Engine, event: Events) -> list[Any]:
    # Ignite has no public way to list handlers; `.get`, because a plain look-up would register the event.
    return [entry[0] for entry in engine._event_handlers.get(event, [])]


def _has_monai_handler(engine: Engine) -> bool:
    owners = (getattr(handler, "__self__", None) for handler in _event_handlers(engine, Events.STARTED))
    return any(isinstance(owner, MLFlowHandler) and not isinstance(owner, TrackingHandler) for owner in owners)
