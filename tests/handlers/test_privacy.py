from __future__ import annotations

import stat

import pandas as pd

from fairmedfm_monai.handlers.privacy import hash_id, hide_ids, private_salt


def test_salt_is_made_once_and_belongs_to_its_owner(tmp_path):
    first = private_salt(tmp_path / "home")
    assert len(first) == 32
    assert private_salt(tmp_path / "home") == first
    assert stat.S_IMODE((tmp_path / "home" / "salt.txt").stat().st_mode) == 0o600


def test_unwritable_home_gives_a_salt_for_this_run(tmp_path):
    (tmp_path / "home").touch()
    assert private_salt(tmp_path / "home") != private_salt(tmp_path / "home")


def test_hashes_depend_on_the_salt():
    assert hash_id("a", "salt") == hash_id("a", "salt") != hash_id("a", "pepper")
    assert hash_id("a", "salt") != hash_id("b", "salt")


def test_no_id_and_no_path_survives():
    table = pd.DataFrame(
        {"case_id": ["c1", "c2"], "patient_id": ["p", "p"], "failed": ["", "FileNotFoundError: /data/p/c2.png"]}
    )
    hidden = hide_ids(table, "salt")
    assert len(set(hidden["patient_id"])) == 1
    assert hidden["case_id"].nunique() == 2
    assert not hidden.isin(["c1", "c2", "p"]).any().any()
    assert "/data" not in hidden["failed"][1]
    assert hidden["failed"][0] == ""
    assert hidden["failed"][1] != ""
    assert table["case_id"].tolist() == ["c1", "c2"]
