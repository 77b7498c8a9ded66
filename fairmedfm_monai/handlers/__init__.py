"""Ignite handlers: subgroup evidence and MLflow tracking for MONAI's own engines."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EarlyStopping": ".early_stopping",
        "FairnessHandler": ".fairness",
        "GroupCodes": ".group_codes",
        "MitigatedReport": ".mitigated_report",
        "ProbabilityWriter": ".probabilities",
        "TrackingHandler": ".tracking",
        "exit_on_failures": ".output",
        "free_output_dir": ".output",
        "log_headline": ".headline",
        "log_output_dir": ".tracking",
        "unique_run_name": ".tracking",
    },
)
