"""metadata.json of a bundle, in the schema of the model zoo."""

from __future__ import annotations

from typing import Any

import fairmedfm_monai
from fairmedfm_monai.bundle.configs.classification_parts import example_names
from fairmedfm_monai.bundle.configs.segmentation import EXAMPLE_LABELS
from fairmedfm_monai.catalog import Row

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

# Versions that the collection was tested with; rendering must not depend on the machine that renders.
TESTED_MONAI = "1.6.1"
TESTED_TORCH = "2.15.0"
TESTED_NUMPY = "2.4.6"
TESTED_PACKAGES = {"nibabel": "5.4.2", "pytorch-ignite": "0.5.5", "fire": "0.7.1", "mlflow": "3.17.2"}
FM_PACKAGES = {
    "open_clip_torch": "3.3.0",
    "segment-anything": "1.0",
    "timm": "1.0.31",
    "transformers": "5.23.0",
    "sentencepiece": "0.2.3",
    "protobuf": "7.36.2",
    "einops": "0.8.2",
}
USAGE_PACKAGES = {"lora": {"peft": "0.21.2"}, "lora_prompted": {"peft": "0.21.2"}}

USAGE_TITLES = {
    "zero_shot": "zero-shot classification",
    "linear_probe": "linear probe",
    "lora": "LoRA fine-tuning",
    "mlp_probe": "MLP probe",
    "prototypes": "trained class prototypes",
    "adapter": "CLIP-Adapter",
    "prompted": "prompted segmentation",
    "decoder_finetune": "mask decoder fine-tuning",
    "full_finetune": "full fine-tuning",
    "lora_prompted": "LoRA fine-tuning with prompts",
}
# The same usage, said for the task where that matters.
TASK_TITLES = {("segmentation", "lora"): "LoRA fine-tuning without prompts"}


def usage_title(row: Row, usage: str) -> str:
    """What a bundle does, for people."""
    return TASK_TITLES.get((row.task, usage), USAGE_TITLES[usage])


def metadata(row: Row, usage: str) -> dict[str, Any]:
    """The content of ``configs/metadata.json``."""
    return {
        "schema": SCHEMA,
        "version": fairmedfm_monai.__version__,
        "changelog": {fairmedfm_monai.__version__: "first version"},
        "monai_version": TESTED_MONAI,
        "pytorch_version": TESTED_TORCH,
        "numpy_version": TESTED_NUMPY,
        "required_packages_version": {
            **TESTED_PACKAGES,
            **_packages(row),
            **USAGE_PACKAGES.get(usage, {}),
            "fairmedfm-monai": fairmedfm_monai.__version__,
        },
        "supported_apps": {},
        "name": f"{row.title}: {usage_title(row, usage)}",
        "task": f"{_sentence(usage_title(row, usage))} with subgroup evidence",
        "description": row.description,
        "authors": "fairmedfm_monai contributors",
        "copyright": "Copyright (c) fairmedfm_monai contributors",
        "intended_use": row.intended_use,
        "data_source": "; ".join(row.training_data),
        "code_licence": row.code_licence,
        "weights_licence": row.weights_licence,
        "commercial_use": row.commercial_use,
        "eval_metrics": {},
        "references": list(row.references),
        "network_data_format": _data_format(row, usage),
    }


def _packages(row: Row) -> dict[str, str]:
    unknown = [name for name in row.packages if name not in FM_PACKAGES]
    if unknown:
        msg = (
            f"catalog row {row.name!r}: `packages` names {', '.join(unknown)}, but FM_PACKAGES of {__name__} does not: "
            "add the tested version there, and the package to setup.cfg"
        )
        raise ValueError(msg)
    return {name: FM_PACKAGES[name] for name in row.packages}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _data_format(row: Row, usage: str) -> dict[str, Any]:
    window = row.input_spec.get("window") or [row.input_spec["size"]] * 2
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": row.input_spec["channels"],
        "spatial_shape": window,
        "dtype": "float32",
        "is_patch_data": False,
        "channel_def": {str(i): "image" for i in range(row.input_spec["channels"])},
    }
    if row.task == "classification":
        names = example_names(row)
        # A model of volumes gets its range of Hounsfield units as 0 to 1, one of pictures normalised grey values.
        volume, picture = {"modality": "CT", "value_range": [0, 1]}, {"modality": "X-ray", "value_range": [-10, 10]}
        return {
            "inputs": {"image": {**image, **(volume if row.is_volumetric else picture)}},
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(names),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(names)},
                }
            },
        }
    # Volumes go through slice by slice: the server must offer the bundle for 3D, the network itself sees one slice.
    return {
        "inputs": {"image": {**image, "modality": "CT", "value_range": [0, 255]}},
        "outputs": {
            "pred": {
                **image,
                "format": "segmentation",
                "modality": "CT",
                # One mask per prompt; without prompts, one channel per label and one for the background.
                "num_channels": 1 + len(EXAMPLE_LABELS) if usage == "lora" else 1,
                "value_range": [0, 1],
                "channel_def": {"0": "background", **{str(value): name for name, value in EXAMPLE_LABELS.items()}},
            }
        },
    }
