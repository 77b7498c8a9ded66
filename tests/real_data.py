"""Real images out of published packages, fetched once per machine, checked by sha256, never installed or imported."""

from __future__ import annotations

import subprocess
from pathlib import Path

from platformdirs import user_cache_path

from fairmedfm_monai.data.demo.fetch import ARCHIVES, Archive, Member, ScanUnavailableError, fetch_scan, sha256_of

_NILEARN = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
MNI = Archive(
    "nilearn==0.14.1",
    "nilearn-0.14.1-py3-none-any.whl",
    (
        Member(
            _NILEARN.format("t1"), "mni_t1.nii.gz", "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"
        ),
        Member(
            _NILEARN.format("gm"), "mni_gm.nii.gz", "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed"
        ),
        Member(
            _NILEARN.format("wm"), "mni_wm.nii.gz", "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db"
        ),
    ),
)
"""Template T1 of the brain (ICBM 152, 2009a), 1 mm, without skull, and its grey and white matter."""
HEAD = Archive(
    "pydeface==2.1.0",
    "pydeface-2.1.0-py3-none-any.whl",
    (
        Member(
            "pydeface/data/mean_reg2mean.nii.gz",
            "head_t1.nii.gz",
            "fdc13571d66293f9919648cd8de9a7b3491b12175e09336353d2c9ce0466ecb6",
        ),
    ),
)
"""Mean T1 of whole heads, with the air around them."""
DICOM = Archive(
    "pydicom-data==1.0.0",
    "pydicom_data-1.0.0-py3-none-any.whl",
    (
        Member(
            "data_store/data/RG1_UNCI.dcm",
            "chest_cr.dcm",
            "3561020824868615a93a51078671b3ff73bb2578c966f76def99b4d982897e75",
        ),
        Member(
            "data_store/data/US1_UNCI.dcm",
            "ultrasound.dcm",
            "b7556a5414d5ed6bd0359b8222eda10efcce81762428848d9a3ac6be5b55cb6c",
        ),
        Member(
            "data_store/data/MR2_UNCI.dcm",
            "shoulder_mr.dcm",
            "7f79ac33e1ab32e1a8ca10ce62f18e5a2372e78c8a6684af17302b1a0171fc46",
        ),
    ),
)
"""A chest radiograph (CR, MONOCHROME1, 15 bits stored), an ultrasound picture (RGB), an MR slice (rescaled)."""
_XRAY_TABLES = "torchxrayvision/data/{}"
XRAY_TABLES = Archive(
    "torchxrayvision==1.5.7",
    "torchxrayvision-1.5.7-py3-none-any.whl",
    (
        Member(
            _XRAY_TABLES.format("Data_Entry_2017_v2020.csv.gz"),
            "nih_chestxray14.csv.gz",
            "9d4de640ee4f760215d8be98376b20387ca52f9c6b4d1b727cb588fb82f40b80",
        ),
        Member(
            _XRAY_TABLES.format("chexpert_train.csv.gz"),
            "chexpert_train.csv.gz",
            "cdd70817ac2f13e464d2e35de78cd6831b10382c869c3824c35b44f55928becb",
        ),
    ),
)
"""The tables (no images) of NIH ChestX-ray14, of 2020, and of CheXpert's training images."""
CT = ARCHIVES[0]
"""The demo's CT and its organ labels."""
_SKIMAGE = {  # files that the installed scikit-image carries
    "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
    "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
}


def fetch(archive: Archive) -> Path:
    """Folder with the members of an archive, in a cache that outlives the test session.

    Raises:
        ScanUnavailableError: no network, or another content than expected.
    """
    return fetch_scan(home=user_cache_path("fairmedfm-tests", appauthor=False), archives=(archive,))


def packaged(name: str) -> Path:
    """``retina.jpg`` (fundus photograph) or ``ihc.png`` (histology) of the installed scikit-image.

    Raises:
        ScanUnavailableError: this version of scikit-image does not carry it, or carries another.
    """
    import skimage

    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file() or sha256_of(path) != _SKIMAGE[name]:
        msg = f"scikit-image {skimage.__version__} does not carry the known {name}"
        raise ScanUnavailableError(msg)
    return path


def fetch_or_skip(archive: Archive) -> Path:
    """As `fetch`; skips the test when the download failed, and fails it when what came is not what was expected."""
    import pytest

    try:
        return fetch(archive)
    except ScanUnavailableError as error:
        if isinstance(error.__cause__, subprocess.SubprocessError):
            pytest.skip(f"the package registry cannot be reached: {error}")
        raise


def packaged_or_skip(name: str) -> Path:
    """As `packaged`; skips the test where the installed scikit-image is another."""
    import pytest

    try:
        return packaged(name)
    except ScanUnavailableError as error:
        pytest.skip(str(error))
