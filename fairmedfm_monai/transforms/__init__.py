"""MONAI dictionary transforms: readers, intensities, prompts."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CTWindowd": ".intensity",
        "CropFundusd": ".fundus",
        "CaseReader": ".load",
        "ClicksToPromptsd": ".click_prompts",
        "LoadPromptsd": ".load_prompts",
        "FiniteValuesd": ".finite",
        "ForgetSpatialShaped": ".label_server",
        "MRIIntensityd": ".mri",
        "MasksToLabelMapd": ".label_map",
        "MatchChannelsd": ".channels",
        "ModalityIntensityd": ".modality",
        "N4BiasFieldd": ".bias_field",
        "PILResized": ".pil_resize",
        "PictureIntensityd": ".picture",
        "PromptsToMetad": ".prompts_to_meta",
        "SamplePromptsd": ".sample_prompts",
        "SampleSized": ".sample_size",
        "ReverseChannelsd": ".reverse_channels",
        "SimulatePromptsd": ".simulate_prompts",
        "XRayIntensityd": ".intensity",
    },
)
