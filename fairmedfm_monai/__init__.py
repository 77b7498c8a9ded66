"""Subgroup evidence for medical-imaging foundation models, as MONAI bundles. Research use; not a medical device."""

from __future__ import annotations

__version__ = "0.1.0"
