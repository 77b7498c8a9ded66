from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from fairmedfm_monai.data.demo.deform import (
    Deformation,
    Sampler,
    draw_deformation,
    grid_affine,
    recentre,
    rotation,
    save_nifti,
)
from fairmedfm_monai.data.demo.scan import Scan


@pytest.fixture(scope="module")
def sampler(phantom: Scan) -> Sampler:
    return Sampler(phantom, phantom.large_organs())


def rest(centre: np.ndarray) -> Deformation:
    """No deformation at all."""
    drawn = draw_deformation(0, centre)
    return replace(drawn, scale=np.ones(3), amplitude=np.zeros_like(drawn.amplitude))


def test_at_rest_on_its_own_grid_the_scan_comes_back(phantom: Scan, sampler: Sampler) -> None:
    hu, labels = sampler.sample(phantom.affine, phantom.hu.shape, rest(sampler.centre))
    assert np.array_equal(labels, phantom.large_organs())
    assert np.abs(hu - phantom.hu).max() <= 1


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "oblique"])
def test_another_grid_agrees_with_nibabel(phantom: Scan, sampler: Sampler, codes: str) -> None:
    shape, centre = (
        (40, 36, 20),
        sampler.centre + np.array([0.31, 0.17, 0.43]),
    )  # no voxel halfway between two of the scan's
    affine = grid_affine("RAS" if codes == "oblique" else codes, (5.0, 4.0, 6.0), shape, centre)
    if codes == "oblique":
        affine[:3, :3] = rotation((8.0, -5.0, 12.0)) @ affine[:3, :3]
        affine = recentre(affine, shape, centre)
    else:
        assert "".join(nib.aff2axcodes(affine)) == codes
    hu, labels = sampler.sample(affine, shape, rest(sampler.centre))
    source = nib.Nifti1Image(phantom.hu.astype(np.float32), phantom.affine)
    reference = resample_from_to(source, (shape, affine), order=1, cval=-1000).get_fdata()
    assert np.abs(hu - reference).max() <= 2
    source = nib.Nifti1Image(phantom.large_organs(), phantom.affine)
    nearest = np.asarray(resample_from_to(source, (shape, affine), order=0).dataobj)
    assert (labels != nearest).mean() < 1e-3


def test_waves_are_the_sines_they_stand_for(sampler: Sampler) -> None:
    deformation = draw_deformation((3, 1), sampler.centre)
    affine, shape = grid_affine("LPS", (9.0, 8.0, 7.0), (12, 11, 10), sampler.centre + 5), (12, 11, 10)
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    for axis in range(3):
        phase = (points - deformation.centre) @ deformation.wave[:, axis].T + deformation.phase[:, axis]
        direct = (deformation.amplitude[:, axis] * np.sin(phase)).sum(axis=1).reshape(shape)
        np.testing.assert_allclose(deformation.shift(axis, affine, shape), direct, atol=1e-4)


def test_slices_keep_their_height(sampler: Sampler) -> None:
    for patient in range(20):
        deformation = draw_deformation((0, patient), sampler.centre, scale_z=False)
        assert deformation.scale[2] == 1
        assert deformation.amplitude[:, 2].sum() <= 4.0


def test_a_deformation_never_folds(sampler: Sampler) -> None:
    affine, shape = grid_affine("RAS", (8.0, 8.0, 8.0), (40, 40, 40), sampler.centre), (40, 40, 40)
    for patient in range(5):
        deformation = draw_deformation((0, patient), sampler.centre)
        moved = [deformation.shift(axis, affine, shape) for axis in range(3)]
        gradient = np.stack([np.stack(np.gradient(component, 8.0), axis=-1) for component in moved], axis=-2)
        jacobian = np.linalg.det(gradient + np.diag(1 / deformation.scale))
        assert jacobian.min() > 0.2


def test_rotation_agrees_with_scipy() -> None:
    np.testing.assert_allclose(
        rotation((10, -20, 30)), Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()
    )


def test_outside_the_scan_there_is_air(sampler: Sampler) -> None:
    affine = grid_affine("RAS", (5.0, 5.0, 5.0), (8, 8, 8), sampler.centre + 1000)
    hu, labels = sampler.sample(affine, (8, 8, 8), rest(sampler.centre))
    assert set(np.unique(hu)) == {-1000}
    assert not labels.any()


def test_files_carry_one_geometry_and_no_date(tmp_path: Path, sampler: Sampler) -> None:
    affine = grid_affine("LPS", (1.5, 1.5, 2.5), (8, 8, 4), sampler.centre)
    array = np.arange(256, dtype=np.int16).reshape(8, 8, 4)
    for name in ("a.nii.gz", "b.nii.gz"):
        save_nifti(str(tmp_path / name), array, affine)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    assert np.array_equal(np.asarray(image.dataobj), array)
