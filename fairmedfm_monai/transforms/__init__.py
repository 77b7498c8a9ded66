"""MONAI dictionary transforms: readers, intensities, prompts."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CTWindowd": ".intensity",
        "CaseReader": ".load",
        "ClicksToPromptsd": ".prompts",
        "LoadPromptsd": ".prompts",
        "ForgetSpatialShaped": ".label_server",
        "MasksToLabelMapd": ".prompts",
        "MatchChannelsd": ".channels",
        "ModalityIntensityd": ".modality",
        "PromptsToMetad": ".prompts",
        "SimulatePromptsd": ".prompts",
        "XRayIntensityd": ".intensity",
    },
)
