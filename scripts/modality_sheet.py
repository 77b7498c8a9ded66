"""Picture sheet: one image of each modality as its file holds it, after its transform, and as CLIP gets it.

    python -m scripts.modality_sheet --output docs/images/modalities.png     (from the root of a checkout)

Real images come from published packages and are fetched once; SLO, OCT and dermoscopy are made, and say so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from scipy import ndimage

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.transforms import ModalityIntensityd, PILResized
from tests.real_data import CT, DICOM, HEAD, fetch, packaged

FM = "clip"
BLOCKS = 2  # modalities side by side
READER = "fairmedfm_monai.transforms.CaseReader"


def load(path: Path) -> MetaTensor:
    """A file as bundles load it: channel first, rows x columns as on a screen."""
    image = LoadImage(reader=READER, ensure_channel_first=True)(str(path))
    return Orientation(axcodes="PLS", labels=None)(image)


def of_eight_bits(picture: np.ndarray) -> MetaTensor:
    """A made picture (C, H, W) with values 0..255, as if read from a file."""
    return MetaTensor(picture.astype(np.uint8).astype(np.float32), meta={"source_max": 255.0})


def made_slo() -> MetaTensor:
    """The green channel of the fundus photograph, as dark as scanning laser pictures are (86 of 255 at most)."""
    photograph = load(packaged("retina.jpg"))
    green = photograph[1:2].numpy()
    return of_eight_bits(green * 86 / green.max())


def made_oct(height: int = 300, width: int = 500) -> MetaTensor:
    """Layers of a retina with a foveal pit, in speckle."""
    random = np.random.default_rng(0)
    row, column = np.indices((height, width))
    pit = 45 * np.exp(-(((column - width / 2) / 60) ** 2))
    layers = ((70.0, 90.0, 150.0), (90.0, 130.0, 80.0), (130.0, 165.0, 45.0), (165.0, 190.0, 190.0))
    bright = np.full((height, width), 12.0)
    for number, (top, bottom, value) in enumerate(layers):
        lift = pit * (1 - number / 3)
        bright[(row >= top + lift) & (row < bottom + pit * (1 - min(number + 1, 3) / 3))] = value
    below = row >= 190
    bright[below] = 90 * np.exp(-(row[below] - 190) / 45.0) + 12
    speckle = random.gamma(4.0, 0.25, (height, width))
    return of_eight_bits(np.clip(ndimage.gaussian_filter(bright * speckle, 0.8), 0, 255)[None])


def made_dermoscopy(height: int = 450, width: int = 600) -> MetaTensor:
    """A brown lesion with an uneven border on skin, hairs, and the dark corners of the optics."""
    random = np.random.default_rng(1)
    row, column = np.indices((height, width))
    angle, radius = np.arctan2(row - 220, column - 310), np.hypot(row - 220, column - 310)
    border = 105 + 14 * np.sin(3 * angle) + 8 * np.sin(7 * angle + 1)
    lesion = 1 / (1 + np.exp((radius - border) / 5))
    texture = ndimage.gaussian_filter(random.normal(size=(height, width)), 5) * 160
    skin, brown = np.array([222.0, 170, 150]), np.array([105.0, 62, 45])
    colours = skin[:, None, None] * (1 - lesion) + (brown[:, None, None] + texture * 0.8) * lesion + texture * 0.2
    for _ in range(7):
        middle, bow = random.uniform(50, 400), random.uniform(-60, 60)
        line = np.abs(row - middle - bow * np.sin(column / 190.0 + random.uniform(0, 6))) < 1.2
        colours[:, line] *= 0.45
    corner = 1 / (1 + np.exp((np.hypot(row - height / 2, column - width / 2) - 330) / 12))
    return of_eight_bits(np.clip(colours * corner, 0, 255))


def ultrasound() -> MetaTensor:
    """Only what the probe saw: the file has letters around it."""
    return load(fetch(DICOM) / "ultrasound.dcm")[:, 110:335, 50:590]


def with_field(image: MetaTensor) -> MetaTensor:
    """Every second voxel of an MRI volume, under a made coil profile."""
    small = image[:, ::2, ::2, ::2]
    x, y = (torch.linspace(-1, 1, small.shape[axis]) for axis in (1, 2))
    return small * torch.exp(0.7 * x[:, None, None] + 0.5 * y[None, :, None])


Make = Callable[[], MetaTensor]
ROWS: tuple[tuple[str, str, Make, dict[str, Any]], ...] = (
    ("xray", "chest CR, MONOCHROME1 (DICOM)", lambda: load(fetch(DICOM) / "chest_cr.dcm"), {}),
    ("ct", "lung window (NIfTI)", lambda: load(fetch(CT) / CT.members[0].name), {"window": "lung"}),
    ("mri", "mean T1 of heads (NIfTI)", lambda: load(fetch(HEAD) / "head_t1.nii.gz"), {}),
    ("mri", "the same under a made bias field", lambda: with_field(load(fetch(HEAD) / "head_t1.nii.gz")), {}),
    ("mri", "the same, n4=True", lambda: with_field(load(fetch(HEAD) / "head_t1.nii.gz")), {"n4": True}),
    ("ultrasound", "Doppler, cropped (DICOM)", ultrasound, {}),
    ("fundus", "photograph, 8 bits (JPEG)", lambda: load(packaged("retina.jpg")), {}),
    ("slo", "MADE from the photograph", made_slo, {}),
    ("slo", "MADE, stretch=[0.5, 99.5]", made_slo, {"stretch": [0.5, 99.5]}),
    ("oct", "MADE", made_oct, {}),
    ("dermoscopy", "MADE", made_dermoscopy, {}),
    ("pathology", "histology, 8 bits (PNG)", lambda: load(packaged("ihc.png")), {}),
)


def flat(image: torch.Tensor) -> np.ndarray:
    """The picture, or of a volume the middle slice, as (H, W) or (H, W, 3)."""
    array = np.asarray(image)
    array = array[..., array.shape[-1] // 2] if array.ndim == 4 else array
    return array[0] if len(array) == 1 else array.transpose(1, 2, 0)


def draw(axes: Any, image: torch.Tensor, title: str, span: tuple[float, float]) -> None:
    """One picture with its values; colours are shown as shares of the span."""
    low, high = span
    axes.imshow(np.clip((flat(image) - low) / (high - low), 0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_title(f"{title}\n{' x '.join(map(str, image.shape))}, {image.min():.4g} to {image.max():.4g}", fontsize=8)
    axes.set_axis_off()


def main() -> None:
    """Load, scale, resize, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("modalities.png"))
    output = parser.parse_args().output
    spec = find_row(FM).input_spec
    mode, interpolation = (spec["resize"][key] for key in ("mode", "interpolation"))
    resize = PILResized("image", size=spec["size"], mode=mode, interpolation=interpolation, crop=spec["size"])
    height = len(ROWS) // BLOCKS
    figure, grid = plt.subplots(height, 3 * BLOCKS, figsize=(7.8 * BLOCKS, 2.9 * height))
    places = [grid[row, 3 * block : 3 * block + 3] for block in range(BLOCKS) for row in range(height)]
    for axes, (modality, text, make, options) in zip(places, ROWS, strict=True):
        raw = make()
        scaled = ModalityIntensityd("image", modality=modality, **options)({"image": raw})
        # Pictures have a natural black and white; the values of the others have not, and get their own extremes.
        known = float(raw.meta.get("source_max", np.nan))
        own = modality in {"ct", "mri", "xray"} or not np.isfinite(known)
        draw(axes[0], raw, f"{modality}: {text}", (float(raw.min()), float(raw.max())) if own else (0.0, known))
        draw(axes[1], scaled["image"], "after the transform", (0.0, 1.0))
        middle = scaled["image"][..., scaled["image"].shape[-1] // 2] if raw.ndim == 4 else scaled["image"]
        draw(axes[2], resize({"image": middle})["image"], f"as {FM} resizes it", (0.0, 1.0))
        print(f"{modality:12} {text:36} raw {raw.min():.4g}..{raw.max():.4g}  {tuple(scaled['image'].shape)}")
    figure.tight_layout()
    figure.savefig(output, dpi=64)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
