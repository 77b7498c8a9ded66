"""A tiny dataset of real files and tiny networks whose output is known: grey value = score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd, AsDiscreted, Compose, EnsureTyped, LoadImaged
from PIL import Image

from fairmedfm_monai.data.cases import CaseDataset
from fairmedfm_monai.data.dataset import DatasetInfo, load_dataset


def write_xray(folder: Path, *, n: int = 90, seed: int = 0) -> Path:
    """Two-class dataset: grey value tells the class well in men and badly in women; every fourth case has a partner
    image of the same patient."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(n):
        patient = index - (index % 4 == 3)
        person = np.random.default_rng(1000 + patient)
        sex, age = person.choice(["F", "M"]), int(person.integers(30, 90))
        finding = bool(rng.random() < 0.4)
        centre = 0.5 + (0.25 if sex == "M" else 0.05) * (1 if finding else -1)
        grey = int(255 * np.clip(rng.normal(centre, 0.12), 0, 1))
        Image.fromarray(np.full((4, 4), grey, dtype=np.uint8)).save(folder / f"img{index:03d}.png")
        rows.append(
            {
                "case_id": f"case{index:03d}",
                "patient_id": f"patient{patient:03d}",
                "image": f"img{index:03d}.png",
                "split": "val" if patient % 3 == 0 else "test",
                "label": "finding" if finding else "no_finding",
                "Sex": sex if index % 20 else "",
                "Age": age,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    card = {
        "schema": 1,
        "name": "toy-xray",
        "title": "Toy X-ray",
        "task": "classification",
        "modality": "xray",
        "spatial_dims": 2,
        "unit": "patient",
        "licence": "CC0",
        "notice": "Toy data: measures plumbing.",
        "classes": {"no_finding": ["nothing"], "finding": ["something"]},
        "positive_class": "finding",
        "attributes": {
            "sex": {"column": "Sex", "groups": {"female": ["F"], "male": ["M"]}, "missing": [""]},
            "age": {"column": "Age", "bins": [0, 60, 200], "groups": ["lt60", "ge60"]},
        },
        "intersections": [["sex", "age"]],
        "window": None,
    }
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def write_ct(folder: Path, *, n: int = 10) -> Path:
    """Volumes of 12 x 10 x 8 voxels of 1 x 2 x 3 mm (flipped first axis) with a ball-like kidney and a small tumour."""
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(n):
        mask = np.zeros((12, 10, 8), dtype=np.uint8)
        x, y, z = np.ogrid[:12, :10, :8]
        mask[(x - 5) ** 2 + (y - 4) ** 2 + (z - 3) ** 2 <= 9] = 1
        if index != 4:  # one case has no tumour
            mask[8 + index % 2 : 11, 7:9, 5:7] = 2
        affine = np.diag([-1.0, 2.0, 3.0, 1.0])
        nib.save(nib.Nifti1Image(mask.astype(np.float32), affine), folder / f"vol{index}.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"mask{index}.nii.gz")
        rows.append(
            {
                "case_id": f"vol{index}",
                "patient_id": f"p{index}",
                "image": f"vol{index}.nii.gz",
                "mask": f"mask{index}.nii.gz",
                "split": "test",
                "Sex": "F" if index % 2 else "M",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    card = {
        "schema": 1,
        "name": "toy-ct",
        "task": "segmentation",
        "modality": "ct",
        "spatial_dims": 3,
        "unit": "patient",
        "licence": "CC0",
        "labels": {"kidney": 1, "tumour": 2},
        "attributes": {"sex": {"column": "Sex", "groups": {"female": ["F"], "male": ["M"]}}},
        "intersections": [],
        "reader_dice": {"tumour": 0.8},
    }
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


class GreyNet(torch.nn.Module):
    """Logits (B, 2) of which the softmax says how bright the image is."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brightness = self.slope * (image.mean(dim=(1, 2, 3)) / 255 - 0.5)
        return torch.stack([-brightness, brightness], dim=1)


class ShiftNet(torch.nn.Module):
    """Masks (B, 4, ...): first prompt exact, second prompt shifted by one voxel; odd cases lose the tumour."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        exact = torch.cat([image == 1, image == 2], dim=1).float()
        return torch.cat([exact, torch.roll(exact, 1, dims=2)], dim=1)


def loader(info: DatasetInfo, *splits: str, batch_size: int = 8, sampler: object = None) -> DataLoader:
    """Real files through MONAI's reader."""
    keys = ["image", "label"] if info.task == "segmentation" else ["image"]
    steps = [LoadImaged(keys=keys, ensure_channel_first=True), EnsureTyped(keys=keys)]
    data = CaseDataset(info.cases(*splits), Compose(steps))
    return DataLoader(data, batch_size=batch_size, num_workers=0, sampler=sampler)


def evaluator(info: DatasetInfo, handlers: list[object], *splits: str, **options: object) -> SupervisedEvaluator:
    """MONAI's evaluator with the network that suits the dataset."""
    masks = info.task == "segmentation"
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader(info, *splits, **options),
        network=ShiftNet() if masks else GreyNet(),
        postprocessing=AsDiscreted(keys="pred", threshold=0.5) if masks else Activationsd(keys="pred", softmax=True),
        val_handlers=handlers,
    )


def load(folder: Path) -> DatasetInfo:
    """Load without the warnings about unknown groups."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(folder)


def validated(values: list[float], first: int = 0) -> tuple[Engine, Engine]:
    """A trainer and, run after each of its epochs, a validator whose ``selection`` is the next of the values."""
    trainer, validator = Engine(lambda *_: None), Engine(lambda *_: None)

    @validator.on(Events.STARTED)
    def publish() -> None:
        validator.state.metrics["selection"] = values[first + trainer.state.epoch - 1]

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validator.run([0]))
    return trainer, validator
