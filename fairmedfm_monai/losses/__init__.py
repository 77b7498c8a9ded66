"""Losses that know the groups of a batch, one method per file; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Auditor": ".laftr",
        "ConstrainedLoss": ".constraint",
        "DomainIndependentHead": ".domain_independent",
        "DomainIndependentLoss": ".domain_independent",
        "FEBSLoss": ".febs",
        "GroupDROLoss": ".group_dro",
        "GroupLayers": ".domain_independent",
        "GroupLayersLoss": ".domain_independent",
        "GroupLoss": ".base",
        "GroupTurn": ".domain_independent",
        "LAFTRLoss": ".laftr",
        "ReweightedLoss": ".reweighting",
        "group_means": ".groups",
        "inverse_frequency": ".reweighting",
        "per_case": ".groups",
    },
)
