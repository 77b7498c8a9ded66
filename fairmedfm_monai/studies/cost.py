"""What a cell costs on a CPU: an estimate from the size of the model and the number of images.

One view of an encoder (an image, a slice, a window of a volume) takes ``2 x parameters x tokens`` operations, a token
being a patch of the image (its width as the variant's name tells it, else 16 pixels; 16 x 16 x 16 voxels of a volume).
For vision-language models half of the parameters count: the rest is the text tower. The operations per second are
calibrated: CPU seconds of one thread of an AMD EPYC (virtual), torch 2.15, float32, random weights.

    model                         size             measured s   estimated s
    DINOv2 ViT-S/14               224                   0.171         0.170
    CLIP ViT-B/32                 224                   0.115         0.114
    BiomedCLIP ViT-B/16           224                   0.406         0.591
    DINOv2 ViT-B/14               224                   0.539         0.675
    RETFound ViT-L/16             224                   1.616         1.829
    MoCo-CXR ResNet-50            320                   0.243         0.289
    RAD-DINO ViT-B/14             518                   3.992         3.647
    SAM ViT-B                     1024                 20.472        11.814
    SAM 2.1 tiny                  1024                  4.907         4.911
    MobileSAM                     1024                  2.175         1.277
    SAM-Med3D                     128 x 128 x 128       1.571         1.583
    Merlin (ResNet-152, 3D)       224 x 224 x 160      18.722        30.672
    CT-FM (SegResNet)             96 x 224 x 288       31.241        15.679

So a view is right to about a factor of two. `docs/measurements.md` has 512 features of DINOv2 ViT-S/14 at 105 and 115
CPU seconds (its peer, on two cores); this estimate says 92.3. The rates of heads and runs come from demo_clip on 2,400
demo radiographs: linear probe 14.4 s of training (100 epochs, features cached) and 1.2 s of evaluation, LoRA 22.9 s of
training (2 epochs) and 14.3 s of evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fairmedfm_monai.bundle.configs.classification_parts import FROZEN, SLICES
from fairmedfm_monai.catalog import Row, input_spec, rows
from fairmedfm_monai.studies.bundle_keys import settings_of
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.methods import is_postprocessor
from fairmedfm_monai.studies.sources import Facts

OPERATIONS_PER_SECOND = 65e9
"""Of one core; float32."""
CONVOLUTION_OPERATIONS_PER_SECOND = 15e9
"""The same for encoders of volumes that are convolutional networks: most of their work lies in few parameters."""
READ_SECONDS = 0.01
"""Reading and preparing an image or a slice (0.005 for PNG of 128 pixels, 0.014 for 1024)."""
MASK_SECONDS = 0.03
"""Decoding and measuring the masks of an image or a slice."""
HEAD_SECONDS = 1.2e-4
"""A case of an epoch on cached features, validation included."""
RUN_SECONDS = 2.0
"""What a run costs whatever its data: configuration, statistics, report; without the imports."""
TRAINING_FACTOR = 3
"""Forward and backward pass against a forward pass."""
VOLUME_SLICES = 60
"""Slices with an object in a volume, where nothing tells how many."""
_PATCH = re.compile(r"(?:patch|vit[_-]?[a-z]+[_-]?|-)(14|16|32)(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a cell.

    Attributes:
        own: what only this cell costs.
        encoding: what it costs to encode the images once, for all cells of one ``shared``.
        shared: dataset folder, FM and variant that have their encodings in common; empty where none are cached.
    """

    own: float
    encoding: float = 0.0
    shared: tuple[str, ...] = ()


def estimate(cell: Cell, facts: Facts, sizes: Mapping[str, int], folder: str = "") -> Cost:
    """What a cell costs.

    Args:
        cell: the cell; its bundle must be in the catalog.
        facts: of the dataset.
        sizes: split -> cases.
        folder: of the dataset; two datasets have no encodings in common.
    """
    if is_postprocessor(cell.mitigation):
        return Cost(RUN_SECONDS)
    row = rows()[cell.fm]
    train, val, test = (sizes.get(split, 0) for split in ("train", "val", "test"))
    evaluated = sum(sizes.get(split, 0) for split in cell.evaluate.get("split", ("val", "test")))
    views = views_of_case(row, facts)
    case = views * (view_seconds(row, cell.variant, cell.train.get("image_size")) + READ_SECONDS)
    runs = RUN_SECONDS * (1 + cell.trained)
    epochs = _epochs(cell) if cell.trained else 0
    shared = (folder, cell.fm, cell.variant)
    masks = views * MASK_SECONDS if cell.task == "segmentation" else 0.0
    evaluation = evaluated * (case + masks)
    if cell.usage in FROZEN:
        heads = epochs * (train + val) * HEAD_SECONDS
        return Cost(runs + heads, encoding=(train + val + test) * case, shared=shared)
    if cell.usage == "decoder_finetune":
        decoding = epochs * (TRAINING_FACTOR * train + val) * masks
        return Cost(runs + decoding + evaluation, encoding=(train + val) * case, shared=(*shared, "samples"))
    seen = TRAINING_FACTOR * train + val
    return Cost(runs + epochs * seen * (case + masks) + evaluation)


def view_seconds(row: Row, variant: str = "default", size: int | None = None) -> float:
    """CPU seconds of one view through the encoder; ``size`` in pixels where it is not the catalog's."""
    chosen = row.default_variant if variant == "default" else variant
    parameters = row.parameters.get(chosen, row.parameters.get(row.default_variant, 0))
    if "zero_shot" in row.usages:
        parameters = parameters // 2
    spec = {**input_spec(row.name, chosen), **({"size": size} if size else {})}
    convolutional = row.is_volumetric and row.task == "classification"
    rate = CONVOLUTION_OPERATIONS_PER_SECOND if convolutional else OPERATIONS_PER_SECOND
    return 2 * parameters * _tokens(spec, chosen) / rate


def views_of_case(row: Row, facts: Facts) -> int:
    """How often the encoder runs per case."""
    if facts.spatial_dims == 2 or row.is_volumetric:
        return 1
    return int(SLICES["slices"]) if row.task == "classification" else VOLUME_SLICES


def _tokens(spec: Mapping[str, object], variant: str) -> float:
    window = spec.get("window")
    if isinstance(window, (list, tuple)):
        return math.prod(window) / 16**3
    size = spec["size"]
    found = _PATCH.search(variant)
    patch = int(found.group(1)) if found else 16
    return (float(size) / patch) ** 2 if isinstance(size, (int, float)) else 0.0


def _epochs(cell: Cell) -> int:
    """Epochs that a training runs, where no early stopping ends it."""
    settings = {**settings_of(cell.fm, cell.usage, "train"), **cell.train}
    limits = [settings.get(name) for name in ("epochs", "stop_epoch")]
    return min((limit for limit in limits if isinstance(limit, int)), default=1)
