"""docs/README.md of a bundle, in the sections of the model zoo."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs.common import TRAINED
from fairmedfm_monai.bundle.configs.segmentation_training import trainable_prompts
from fairmedfm_monai.bundle.metadata import usage_title
from fairmedfm_monai.catalog import Row

RUN = "python -m monai.bundle run"


def readme(row: Row, usage: str) -> str:
    """The text of ``docs/README.md``."""
    parts = [_overview(row, usage), _data(row), _weights(row), _commands(row, usage), _outputs(row, usage), _end(row)]
    return "\n\n".join(parts) + "\n"


def _overview(row: Row, usage: str) -> str:
    licences = (
        f"Code: {row.code_licence}. Weights: {row.weights_licence}; "
        f"commercial use of the weights: {row.commercial_use}."
    )
    return (
        f"# {row.title}: {usage_title(row, usage)}\n\n## Model Overview\n\n{row.description}\n\n{row.intended_use}\n\n"
        f"Evaluation tells for each patient subgroup how well the model works, with intervals that count patients, and "
        f"whether the difference is more than chance. {licences} Proof ({row.proof_level}): {row.proof}."
    )


def _data(row: Row) -> str:
    column = "label" if row.task == "classification" else "mask"
    return (
        "## Data\n\n"
        "`dataset_dir` is a dataset folder: `manifest.csv` (columns `case_id`, `patient_id`, `image`, `split`, "
        f"`{column}` and attributes) and `dataset.json` (classes or labels, attribute groups). Default: the built-in "
        f"`{row.demo_dataset}`, made from one public CT on first use "
        "(semi-synthetic: shows that things work, not how well).\n\n"
        f"Training data of the model, as published: {'; '.join(row.training_data)}."
    )


def _weights(row: Row) -> str:
    listed = [f"- `{variant}`: `{entry['file']}`" for variant, entry in row.weights["files"].items()]
    return (
        "## Weights\n\n`--weights` takes `pretrained` (default), a path, `random` (full geometry) or `tiny` (for "
        "tests; both are stamped on every output). `python -m fairmedfm_monai weights status` says where each file "
        "is expected.\n\n" + "\n".join(listed)
    )


def _commands(row: Row, usage: str) -> str:
    trained = usage in TRAINED
    prompted = row.task == "segmentation" and usage != "lora"
    lines = ["## MONAI Bundle Commands", "", "Run in the folder of the bundle."]
    if trained:
        lines += ["", "Train:", "", f"    {RUN} --config_file configs/train.json --dataset_dir DATASET_DIR"]
        lines += [
            "",
            "Train on several GPUs:",
            "",
            "    torchrun --standalone --nproc_per_node=2 -m monai.bundle run "
            "--config_file \"['configs/train.json','configs/multi_gpu_train.json']\"",
            "",
            "Train so that groups fare alike (`resampling`, `reweighting`, `group_dro`, ...; a wrong name lists all), "
            "choose the epoch by the worst group, and stop when 5 validations brought nothing better:",
            "",
            f"    {RUN} --config_file configs/train.json --dataset_dir DATASET_DIR --mitigation group_dro "
            f"--mitigation_attributes sex --select_by {_worst_group(row, usage)} --patience 5",
        ]
    if row.task == "classification" and usage in ("lora", "full_finetune"):
        lines += [
            "",
            "Train with less memory, for more computing:",
            "",
            f"    {RUN} --config_file configs/train.json --dataset_dir DATASET_DIR --gradient_checkpointing true",
        ]
    lines += [
        "",
        "Evaluate, with the subgroup report in `eval/report.html`:",
        "",
        f"    {RUN} --config_file configs/evaluate.json --dataset_dir DATASET_DIR",
        "",
        "Override, e.g. another variant and fewer bootstrap replicates:",
        "",
        f"    {RUN} --config_file configs/evaluate.json --variant {row.default_variant} --n_bootstrap 200",
        "",
        "Segment with your prompts:" if prompted else "Infer a folder of images:",
        "",
        f"    {RUN} --config_file configs/inference.json --dataset_dir IMAGES"
        + (" --prompts_file prompts.json --labels \"{'liver': 1}\"" if prompted else ""),
    ]
    if not trained:
        lines += [
            "",
            "Write `models/model.pt` for MONAI Label and Deploy:",
            "",
            f"    {RUN} export --config_file configs/inference.json",
        ]
    return "\n".join(lines)


def _worst_group(row: Row, usage: str) -> str:
    """A name for ``select_by``; of prompted models it begins with the prompt that validation uses."""
    if row.task == "classification":
        return "val/sex/disparity/worst/auc"
    prompt = "" if usage == "lora" else f"{trainable_prompts(row)[0]}/"
    return f"{prompt}val/sex/disparity/worst/dice"


def _outputs(row: Row, usage: str) -> str:
    result = (
        "`predictions.csv` and `.json`"
        if row.task == "classification"
        else "one label map (NIfTI) per image, in the image's own grid"
    )
    return (
        "## Outputs\n\n`eval/`: `report.html`, `subgroups.csv`, `disparities.csv`, `model_card.md`, `run.json` and "
        "`predictions.parquet` (stays on this machine). A finished run is never overwritten: the next goes to "
        f"`eval-01`. The same numbers go to MLflow (`--tracking_uri`, `off` disables). Inference writes {result}."
    )


def _end(row: Row) -> str:
    references = "\n".join(f"{number}. {text}" for number, text in enumerate(row.references, 1))
    return (
        f"## References\n\n{references}\n\n## License\n\nConfigurations: Apache-2.0 (see `LICENSE`). "
        f"Code of the model: {row.code_licence}. Weights: {row.weights_licence}."
    )
