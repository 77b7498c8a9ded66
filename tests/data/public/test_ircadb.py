"""3D-IRCADb: 16-bit label numbers stay; names come from the user's table alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from fairmedfm_monai.data.public.ircadb import IDS
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.ircadb import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ircadb") / "raw")


def _values(file: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(file).dataobj)


def test_prepares_and_validates_with_the_numbers_as_names(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("3dircadb", raw, tmp_path / "out")
    truth = pd.read_csv(raw / "overview.csv").set_index("name")["sex"]
    assert info.labels == {f"id_{value}": value for value in IDS}
    assert (info.table.set_index("case_id")["sex"] == truth.map({"F": "female", "M": "male"})).all()
    found = {int(value) for mask in info.table["mask"] for value in np.unique(_values(info.root / mask))}
    assert found == {0, 1, 17, 65, 257, 513}
    assert "not documented" in (info.notice or "")
    assert any("there is no labels.csv" in line for line in result.summary)


def test_names_of_the_user_unite_values_and_evaluate(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    others = "".join(f"{value},other\n" for value in IDS if value not in (1, 17, 65, 257, 513))
    (tmp_path / "raw" / "labels.csv").write_text(
        f"id,name\n1,liver\n17,liver\n257,portal_vein\n513,stomach\n65,\n{others}"
    )
    info, result = prepared("ircadb", tmp_path / "raw", tmp_path / "out")
    assert info.labels == {"liver": 1, "other": 33, "id_65": 65, "portal_vein": 257, "stomach": 513}
    for row in info.table.to_dict("records"):
        original = _values(raw / "Dataset003_3D-IRCADb" / "labelsTr" / f"{row['case_id']}.nii.gz")
        made = nibabel.load(info.root / row["mask"])
        assert np.array_equal(np.asanyarray(made.dataobj), np.where(original == 17, 1, original))
        assert made.get_data_dtype() == np.uint16
    assert any("share the name of another and are united" in line for line in result.summary)
    assert "not documented" in (info.notice or "")  # 65 still has no name
    subgroups = evaluate(info, tmp_path, tracking_uri, prompts=["box"])
    assert {"liver", "portal_vein", "id_65"} <= set(subgroups["label"])


def test_a_complete_table_needs_no_new_files_and_no_notice(tmp_path: Path) -> None:
    make(tmp_path / "raw", inside=".", channel="_0000")
    rows = "".join(f"{value},organ_{value}\n" for value in IDS)
    (tmp_path / "raw" / "labels.csv").write_text(f"id,name\n{rows}")
    info, _ = prepared("ircadb", tmp_path / "raw", tmp_path / "out", protocol="fairmedfm")
    assert info.labels == {f"organ_{value}": value for value in IDS}
    assert info.table["mask"].str.startswith("source/labelsTr").all()
    assert not info.notice
    assert set(info.table["split"]) == {"test"}


def test_what_is_wrong_is_told(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    source = tmp_path / "raw"
    dataset = find_dataset("ircadb")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, source / "Dataset003_3D-IRCADb", tmp_path / "out", progress=False)
    for content, message in (
        ("id,name\none,liver\n", "'id' must hold whole numbers from 1 on, but got one"),
        ("id,name\n1,liver\n1,spleen\n", "holds values more than once: 1"),
        ("id,name\n1,left kidney\n", "'name' must hold letters.*left kidney"),
        ("value,name\n1,liver\n", "lacks the column 'id'"),
    ):
        (source / "labels.csv").write_text(content)
        with pytest.raises(DatasetError, match=message):
            prepare_dataset(dataset, source, tmp_path / "out", progress=False)
    (source / "labels.csv").unlink()
    table = source / "overview.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",F", ",?", 1))
    with pytest.raises(DatasetError, match=r"'sex'.*'\?' \(1\)"):
        prepare_dataset(dataset, source, tmp_path / "out", progress=False)


def test_a_value_that_nobody_names_stops_when_masks_are_made(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "labels.csv").write_text("id,name\n1,liver\n17,liver\n")
    file = tmp_path / "raw" / "Dataset003_3D-IRCADb" / "labelsTr" / "3Dircadb1.1.nii.gz"
    image = nibabel.load(file)
    labels = np.asanyarray(image.dataobj).copy()
    labels[0, 0, 0] = 1000
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), file)
    dataset = find_dataset("ircadb")
    with pytest.raises(DatasetError, match=r"3Dircadb1\.1\.nii\.gz: the mask holds 1000"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", workers=1, progress=False)
