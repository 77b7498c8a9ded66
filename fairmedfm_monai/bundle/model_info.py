"""``models/model.json``: what a trained ``model.pt`` is, so that it can be built again without a dataset."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

FILE_NAME = "model.json"
RECORDED_PACKAGES = (
    "fairmedfm-monai",
    "monai",
    "torch",
    "pytorch-ignite",
    "open_clip_torch",
    "segment-anything",
    "timm",
    "transformers",
    "einops",
    "sentencepiece",
    "protobuf",
    "peft",
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a checkpoint holds.

    Attributes:
        fm: name in the catalog.
        usage: usage of the FM, e.g. ``linear_probe``.
        variant: variant of the FM.
        weights: the FM's under the usage: ``pretrained``, ``random``, ``tiny`` or ``file`` (a path is not kept).
        classes: class names in the order of the outputs; for zero-shot, name -> prompts; for
            segmentation label names, of a model without prompts name -> value.
        attributes: attribute -> groups seen in training.
        dataset: name of the training dataset, empty if untrained.
        seed: seed of the training.
        settings: what else the network is built from, e.g. whether the card is multi-label.
        mitigation: how groups were treated in training, as ``Method.describe`` tells it: the method with its options
            and groups, and whether the model must be told the group of a patient; empty = not recorded.
        trained: False when this describes a model that nobody trained.
        versions: package -> version.
    """

    fm: str
    usage: str
    variant: str
    weights: str
    classes: list[str] | dict[str, list[str]] | dict[str, int]
    attributes: dict[str, list[str]] = field(default_factory=dict)
    dataset: str = ""
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    mitigation: dict[str, Any] = field(default_factory=dict)
    trained: bool = True
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def geometry(self) -> str:
        """Weights that give the right shapes without reading a file: the checkpoint replaces them all."""
        return "tiny" if self.weights == "tiny" else "random"

    @property
    def mitigated(self) -> str:
        """How groups were treated in training, in one line."""
        return str(self.mitigation.get("text", "not recorded"))

    def classes_for(self, dataset: DatasetInfo) -> list[str]:
        """The model's classes, after making sure that a dataset has the same.

        Raises:
            ValueError: when they differ.
        """
        if list(self.classes) != list(dataset.classes):
            msg = (
                f"the model was trained for the classes {list(self.classes)} but dataset {dataset.name!r} has "
                f"{list(dataset.classes)}: give a dataset of the same classes in the same order, or train again"
            )
            raise ValueError(msg)
        return list(self.classes)

    def write(self, folder: str | Path) -> Path:
        """Write ``model.json`` into ``folder``, whole or not at all."""
        target = Path(folder) / FILE_NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = self.weights if self.weights in {"pretrained", "random", "tiny"} else "file"
        content = {**asdict(self), "weights": kind, "versions": self.versions or _versions()}
        _write_json(target, content)
        return target

    def name_outputs(self, bundle_root: str | Path) -> None:
        """Put the class names into the bundle's ``configs/metadata.json``, where there is such a file.

        MONAI Label and Deploy take the names of the outputs from there and from nowhere else: without this a model
        trained for other classes would answer under the names of the bundle's example.
        """
        file = Path(bundle_root) / "configs" / "metadata.json"
        if not file.is_file():
            return
        content = json.loads(file.read_text(encoding="utf-8"))
        outputs = content["network_data_format"]["outputs"]["pred"]
        names = {str(index): name for index, name in enumerate(self.classes)}
        if outputs["channel_def"] != names:
            outputs.update(num_channels=len(names), channel_def=names)
            _write_json(file, content)


def _write_json(target: Path, content: object) -> None:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    part.replace(target)


def read_model_info(checkpoint: str | Path, **untrained: Any) -> ModelInfo:
    """What ``checkpoint`` is, from the ``model.json`` beside it.

    Args:
        checkpoint: path of ``model.pt``.
        **untrained: fields of the :class:`ModelInfo` to use when there is no ``model.json``: the network can then be
            built and looked at, while loading its checkpoint stops with a message.

    Raises:
        ValueError: when the file is no ``model.json``, or is one of another FM or usage.
    """
    path = Path(checkpoint).parent / FILE_NAME
    if not path.exists():
        return ModelInfo(**untrained, trained=False)
    try:
        info = ModelInfo(**json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        msg = f"{path} must be a model.json written by a training of this package, but it is not ({error})"
        raise ValueError(msg) from error
    for key in ("fm", "usage"):
        if key in untrained and getattr(info, key) != untrained[key]:
            found = getattr(info, key)
            msg = f"{path} describes {key} {found!r}, this bundle is for {untrained[key]!r}: give another --checkpoint"
            raise ValueError(msg)
    return info


def _versions() -> dict[str, str]:
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
