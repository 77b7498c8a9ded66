from __future__ import annotations

import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from skimage.draw import disk, polygon, polygon_perimeter
from sklearn.metrics import f1_score

from fairmedfm_monai.data.demo import fetch
from fairmedfm_monai.data.demo.fetch import ScanUnavailableError
from fairmedfm_monai.data.demo.scan import LIDC_PATIENT, ORGAN_GROUPS, Scan, load_scan, read_scan

SHAPE = (40, 40, 6)
READERS = {11: [(10, 12), (20, 12), (20, 25), (10, 25)], 12: [(12, 12), (22, 12), (22, 25), (12, 25)]}


def write_scan(folder: Path, *, codes: str = "LAS") -> Path:
    """A tiny folder as the fetch leaves it: two readers' squares, one of them with a hole."""
    affine = np.diag([-0.7, 0.7, 2.5, 1]) if codes == "LAS" else np.diag([0.7, 0.7, 2.5, 1])
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    organs = np.zeros(SHAPE, dtype=np.uint8)
    organs[5, 5, 5], organs[6, 5, 5] = 5, 10
    nib.save(nib.Nifti1Image(hu, affine), folder / fetch.CT.name)
    nib.save(nib.Nifti1Image(organs, affine), folder / fetch.ORGANS.name)
    rows = "organs,5,liver,5\norgans,10,lung_upper_lobe_left,10\norgans,4,gallbladder,4\n"
    (folder / fetch.STRUCTURES.name).write_text("group,original_idx,structure,id\n" + rows)
    with sqlite3.connect(folder / fetch.READERS.name) as base:
        base.execute("CREATE TABLE scans (id, patient_id, slice_thickness)")
        base.execute("CREATE TABLE zvals (scan_id, val)")
        base.execute("CREATE TABLE annotations (id, scan_id)")
        base.execute(
            "CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id, image_z_position, inclusion, coords)"
        )
        base.executemany("INSERT INTO scans VALUES (?, ?, 2.5)", [(1, "other"), (2, LIDC_PATIENT)])
        base.executemany("INSERT INTO zvals VALUES (2, ?)", [(-100 + 2.5 * k,) for k in range(SHAPE[2])])
        base.executemany("INSERT INTO annotations VALUES (?, ?)", [(10, 1), (11, 2), (12, 2)])
        for annotation, points in READERS.items():
            add_contour(base, annotation, points, inclusion=1)
        add_contour(base, 12, [(15, 15), (17, 15), (17, 17), (15, 17)], inclusion=0)
        add_contour(base, 10, [(0, 0), (39, 0), (39, 39)], inclusion=1)
    return folder


def add_contour(base: sqlite3.Connection, annotation: int, points: list[tuple[int, int]], *, inclusion: int) -> None:
    coords = "\n".join(f"{x},{y}" for x, y in points)
    statement = "INSERT INTO contours (annotation_id, image_z_position, inclusion, coords) VALUES (?, -95.0, ?, ?)"
    base.execute(statement, (annotation, inclusion, coords))


def outlined(points: list[tuple[int, int]]) -> np.ndarray:
    """The polygon with its outline, by another library, on the scan's axes."""
    x, y = np.array(points).T
    image = np.zeros((SHAPE[1], SHAPE[0]), dtype=bool)
    image[polygon(y, x, image.shape)] = True
    image[polygon_perimeter(y, x, image.shape)] = True
    return image.T[:, ::-1]


def test_contours_land_on_their_voxels(tmp_path: Path) -> None:
    scan = read_scan(write_scan(tmp_path))
    assert scan.name == LIDC_PATIENT
    assert scan.is_real
    assert np.array_equal(scan.reader(0)[:, :, 2], outlined(READERS[11]))
    hole = outlined([(15, 15), (17, 15), (17, 17), (15, 17)])
    assert np.array_equal(scan.reader(1)[:, :, 2], outlined(READERS[12]) & ~hole)
    assert not np.delete(scan.reader_bits, 2, axis=2).any()


def test_only_structures_of_the_scan_are_named(tmp_path: Path) -> None:
    scan = read_scan(write_scan(tmp_path))
    assert scan.organ_names == {"liver": 5, "lung_upper_lobe_left": 10}
    large = scan.large_organs()
    assert large[5, 5, 5] == list(ORGAN_GROUPS).index("liver") + 1
    assert large[6, 5, 5] == list(ORGAN_GROUPS).index("lung_left") + 1
    assert scan.organ("liver", "gallbladder").sum() == 1
    assert scan.spacing == pytest.approx((0.7, 0.7, 2.5))


def test_another_orientation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LAS"):
        read_scan(write_scan(tmp_path, codes="RAS"))


def scan_of_readers(*masks: np.ndarray) -> Scan:
    bits = sum(mask.astype(np.uint8) << bit for bit, mask in enumerate(masks))
    return Scan("x", np.zeros(bits.shape, np.int16), np.eye(4), bits * 0, {}, bits, len(masks), "", "")


def test_consensus_and_dice_of_four_readers() -> None:
    masks = []
    for shift in range(4):
        mask = np.zeros((32, 32, 1), dtype=bool)
        mask[(*disk((14 + shift, 15), 8), 0)] = True
        masks.append(mask)
    scan = scan_of_readers(*masks)
    assert np.array_equal(scan.nodule, np.sum(masks, axis=0) >= 2)
    expected = [[f1_score(a.ravel(), b.ravel()) for b in masks] for a in masks]
    np.testing.assert_allclose(scan.reader_dice(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        scan.reader(4)


def test_without_the_scan_the_phantom_takes_its_place_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(**_: object) -> Path:
        msg = "no network here"
        raise ScanUnavailableError(msg)

    monkeypatch.setattr(fetch, "fetch_scan", unavailable)
    scan = load_scan()
    assert scan.name == "phantom"
    assert not scan.is_real
    assert "no network here" in caplog.text
    with pytest.raises(ScanUnavailableError, match="no network here"):
        load_scan(allow_phantom=False)


@pytest.mark.network
def test_the_real_scan_is_what_it_was_found_to_be() -> None:
    """Facts of the published files, found with other tools than ours (nibabel, hand-made queries)."""
    try:
        scan = load_scan(allow_phantom=False)
    except ScanUnavailableError as error:
        pytest.skip(f"the package registry cannot be reached: {error}")
    assert scan.hu.shape == (512, 512, 133)
    assert scan.spacing == pytest.approx((0.703125, 0.703125, 2.5))
    assert (scan.hu.min(), scan.hu.max()) == (-2048, 3071)
    assert len(scan.organ_names) == 89
    voxels = {name: int(scan.organ(name).sum()) for name in ("spleen", "kidney_right", "kidney_left", "liver", "aorta")}
    assert voxels == {"spleen": 100607, "kidney_right": 60455, "kidney_left": 60153, "liver": 827404, "aorta": 152466}
    volume = [scan.reader(index).sum() * np.prod(scan.spacing) / 1000 for index in range(4)]
    np.testing.assert_allclose(volume, [8.46, 6.61, 7.09, 7.92], atol=0.005)
    pairs = scan.reader_dice()[np.triu_indices(4, k=1)]
    assert (round(pairs.min(), 3), round(pairs.max(), 3)) == (0.845, 0.904)
    assert int(scan.nodule.sum()) == 6282
    box = np.argwhere(scan.nodule)
    assert box.min(0).tolist() == [298, 123, 86]
    assert box.max(0).tolist() == [336, 170, 93]
    lung = scan.organ(*ORGAN_GROUPS["lung_left"])
    assert (lung & scan.nodule).sum() > 0.99 * scan.nodule.sum()
