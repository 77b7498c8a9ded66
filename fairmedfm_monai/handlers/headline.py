"""A few lines for the screen instead of hundreds of metrics."""

from __future__ import annotations

import logging

from ignite.engine import Engine

logger = logging.getLogger(__name__)

HEADLINES = ("auc", "dice")
_DEPTH_OF_DISPARITY = 4  # .../<attribute>/disparity/<statistic>/<metric>


def log_headline(engine: Engine) -> None:
    """Log the overall AUC or Dice of every split, prompt and label, with the gap of every attribute beside it.

    For ``StatsHandler(epoch_print_logger=...)``. Everything else is in the tables and in MLflow.
    """
    metrics = engine.state.metrics
    for name in sorted(metrics):
        scope, _, metric = name.rpartition("/")
        parts = scope.split("/")
        if metric not in HEADLINES or "group" in parts or "disparity" in parts:
            continue
        gaps = [
            f"{other.split('/')[-_DEPTH_OF_DISPARITY]} gap {value:.3f}"
            for other, value in sorted(metrics.items())
            if other.startswith(f"{scope}/") and other.endswith(f"/disparity/gap/{metric}")
        ]
        logger.info("epoch %d  %s %.3f  %s", engine.state.epoch, name, metrics[name], "  ".join(gaps))
