"""How much a feature cache saves: a linear probe on cached features against encoding every image in every epoch.

Both probes see the same generated 224 px images, the same frozen ResNet-18 (random weights: the time does not depend
on them) and the same loader. The cached run is timed whole, encoding included. Of the other run a few epochs are timed
and multiplied, unless ``--all-epochs`` is given. Target: at least half the number of epochs.

    python scripts/bench/linear_probe.py [--images 256] [--epochs 50] [--all-epochs]
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
import torchvision
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImaged, RepeatChanneld, Resized, ScaleIntensityRanged
from PIL import Image

from fairmedfm_monai.data.features import FeatureDataset

TIMED_EPOCHS = 3
BATCH_SIZE = 32


class Encoder(torch.nn.Module):
    """ResNet-18 without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = torchvision.models.resnet18(weights=None)
        self.backbone.fc = torch.nn.Identity()

    def encode_image(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (B, 3, 224, 224) to ``features`` (B, 512)."""
        return {"features": self.backbone(image)}


def make_cases(folder: Path, count: int) -> list[dict[str, Any]]:
    """Write noise images of a radiograph's size and list them as cases."""
    random = np.random.default_rng(0)
    cases = []
    for index in range(count):
        pixels = random.integers(0, 256, (512, 512), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png", compress_level=1)
        cases.append({"image": str(folder / f"{index}.png"), "label": index % 2, "case_id": str(index)})
    return cases


def preprocessing() -> Compose:
    """Load and scale to the encoder's input."""
    return Compose(
        [
            LoadImaged("image", reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True),
            Resized("image", spatial_size=(224, 224), mode="bilinear"),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0, b_max=1),
            RepeatChanneld("image", repeats=3),
        ]
    )


def train(dataset: Dataset, encoder: Encoder | None, epochs: int) -> float:
    """Seconds to train a probe; with an encoder the items are images, without one they are features."""
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
    head = torch.nn.Linear(512, 2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    started = time.perf_counter()
    for _ in range(epochs):
        for batch in loader:
            features = torch.as_tensor(batch["image"])
            if encoder is not None:
                with torch.no_grad():
                    features = encoder.encode_image(features.as_subclass(torch.Tensor))["features"]
            loss = torch.nn.functional.cross_entropy(head(features), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started


def cpu_model() -> str:
    """Name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Run both probes and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--all-epochs", action="store_true", help="time every epoch of the run without cache")
    options = parser.parse_args()
    encoder = Encoder().eval()
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder), options.images)
        dataset = FeatureDataset(cases, preprocessing(), encoder, cache_dir=Path(folder) / "cache")
        started = time.perf_counter()
        dataset.encode()
        encoding = time.perf_counter() - started
        cached = encoding + train(dataset, None, options.epochs)
        timed = options.epochs if options.all_epochs else min(TIMED_EPOCHS, options.epochs)
        uncached = train(Dataset(cases, preprocessing()), encoder, timed) / timed * options.epochs
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, monai {monai.__version__}")
    print(f"ResNet-18, {options.images} images, {options.epochs} epochs, batch {BATCH_SIZE}")
    how = "timed" if timed == options.epochs else f"extrapolated from {timed} epochs"
    print(f"encoding every epoch: {uncached:8.1f} s ({how})")
    print(f"feature cache:        {cached:8.1f} s (of which {encoding:.1f} s encode once)")
    print(f"ratio:                {uncached / cached:8.1f} (target: at least {options.epochs / 2:.0f})")


if __name__ == "__main__":
    main()
