"""The catalog: one JSON row per foundation model, from which bundles, documentation and checks are made."""

from __future__ import annotations

from fairmedfm_monai.catalog.row import Row, find_row, input_spec, lora_targets, rows

__all__ = ["Row", "find_row", "input_spec", "lora_targets", "rows"]
