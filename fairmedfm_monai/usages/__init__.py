"""Ways to use a foundation model, one per file; loaded on first use."""

from __future__ import annotations

from fairmedfm_monai._lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CLIPAdapter": ".clip_adapter",
        "Classifier": ".classifier",
        "ClosureUpdate": ".closure_update",
        "FullFinetune": ".full_finetune",
        "LinearProbe": ".linear_probe",
        "MLPProbe": ".mlp_probe",
        "MergedState": ".lora",
        "PromptFreeNetwork": ".prompt_free",
        "PromptFreeSegmenter": ".prompt_free",
        "PromptedDecoder": ".decoder_finetune",
        "PromptedNetwork": ".prompted_training",
        "Prototypes": ".prototypes",
        "SliceEncoder": ".slice_pooling",
        "SlicePooling": ".slice_pooling",
        "WarmupPolynomialLR": ".schedules",
        "ZeroShotClassifier": ".zero_shot",
        "add_lora": ".lora",
        "add_segmenter_lora": ".segmentation_lora",
        "check_gradients": ".lora",
        "layer_decay_groups": ".layer_decay",
        "load_adapter": ".lora",
        "save_adapter": ".lora",
        "train_whole": ".full_finetune",
    },
)
