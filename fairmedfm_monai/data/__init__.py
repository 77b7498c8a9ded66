"""Dataset folders: manifest, card, checks, splits, cases and cached features."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Attribute": ".card",
        "Card": ".card",
        "CaseDataset": ".cases",
        "DatasetError": ".problems",
        "DatasetInfo": ".dataset",
        "EmbeddedSamples": ".embeddings",
        "FeatureDataset": ".features",
        "Problem": ".problems",
        "SampleDataset": ".samples",
        "SliceCutter": ".sample_cuts",
        "ValidationReport": ".checks",
        "WindowCutter": ".sample_cuts",
        "check_manifest": ".manifest",
        "describe": ".checks",
        "ensure_demo": ".demo",
        "group_of": ".manifest",
        "home": ".home",
        "inference_cases": ".inference",
        "load_dataset": ".dataset",
        "read_manifest": ".manifest",
        "split_patients": ".splits",
        "validate_folder": ".checks",
        "write_manifest": ".manifest",
    },
)
