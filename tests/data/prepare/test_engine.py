"""From release to dataset folder: referenced and converted files, every kind of trouble, interruption, resumption."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.data import DatasetError, load_dataset, validate_folder
from fairmedfm_monai.data.prepare import Prepared, prepare_dataset
from fairmedfm_monai.data.prepare.convert import ConversionStoppedError
from fairmedfm_monai.data.prepare.engine import split_hash
from tests.data.prepare import toy_release as toy

KILLED = """
import sys
from fairmedfm_monai.data.prepare import prepare_dataset
from tests.data.prepare import toy_release as toy
prepare_dataset(toy.DATASET, sys.argv[1], sys.argv[2], choice=toy.DATASET.choose(rule="converted"), workers=1,
                progress=False)
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return toy.make(tmp_path / "raw")


def prepare(raw: Path, output: Path, *, workers: int = 1, incomplete: bool = False, **choice: object) -> Prepared:
    chosen = toy.DATASET.choose(**choice)  # type: ignore[arg-type]
    return prepare_dataset(
        toy.DATASET, raw, output, choice=chosen, workers=workers, incomplete=incomplete, progress=False
    )


def image_bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "images").iterdir()}


def test_originals_are_referenced_and_the_folder_validates(raw: Path, tmp_path: Path) -> None:
    prepared = prepare(raw, tmp_path / "out")
    assert validate_folder(prepared.folder, deep=True).ok
    info = load_dataset(prepared.folder)
    assert info.card.name == "toy"
    assert set(info.table["image"]) == {f"source/pictures/p{index}.png" for index in range(toy.CASES)}
    assert (prepared.folder / "source").readlink() == raw
    assert not (prepared.folder / "images").exists()
    assert info.table.loc[info.table["case_id"].isin(["c3", "c4"]), "age"].tolist() == ["unknown", "unknown"]


def test_summary_tells_expected_counts_and_why_values_are_unknown(raw: Path, tmp_path: Path) -> None:
    text = "\n".join(prepare(raw, tmp_path / "out").summary)
    assert "release: 1; all 2 known counts agree" in text
    assert "age: unknown because" in text
    assert "missing '' (1)" in text
    assert "impossible '155' (1)" in text


def test_counts_that_differ_are_told(raw: Path, tmp_path: Path) -> None:
    lines = (raw / "meta.csv").read_text(encoding="utf-8").splitlines()
    (raw / "meta.csv").write_text("\n".join(lines[:-2]) + "\n")
    text = "\n".join(prepare(raw, tmp_path / "out").summary)
    assert "expected 12, difference -2" in text
    assert "1 of 2 known counts differ" in text


def test_conversion_is_lossless_and_the_same_with_two_processes(raw: Path, tmp_path: Path) -> None:
    one = prepare(raw, tmp_path / "one", rule="converted").folder
    two = prepare(raw, tmp_path / "two", rule="converted", workers=2).folder
    assert image_bytes(one) == image_bytes(two)
    for index in range(toy.CASES):
        expected = np.load(raw / "arrays" / f"c{index}.npy")
        np.testing.assert_array_equal(np.asarray(Image.open(one / "images" / f"c{index}.png")), expected)
    provenance = json.loads((one / "provenance.json").read_text(encoding="utf-8"))
    assert {Path(name).name: value for name, value in provenance["converted"].items()} == image_bytes(one)
    assert load_dataset(one).card.name == "toy-converted"


def test_missing_files_stop_or_are_left_out(raw: Path, tmp_path: Path) -> None:
    (raw / "pictures" / "p5.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 12 cases lack files of the release: pictures/p5\.png"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepared = prepare(raw, tmp_path / "out", incomplete=True)
    assert "c5" not in set(load_dataset(prepared.folder).table["case_id"])
    assert pd.read_csv(prepared.folder / "left_out.csv")["case_id"].tolist() == ["c5"]
    assert any("1 cases left out" in line for line in prepared.summary)


def test_damaged_input_stops_at_the_end_and_keeps_the_others(raw: Path, tmp_path: Path) -> None:
    whole = (raw / "arrays" / "c7.npy").read_bytes()
    (raw / "arrays" / "c7.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"(?s)1 of 12 cases cannot be converted: arrays/c7\.npy: "):
        prepare(raw, tmp_path / "out", rule="converted")
    assert len(image_bytes(tmp_path / "out")) == toy.CASES - 1
    assert not (tmp_path / "out" / "dataset.json").exists()
    left = prepare(raw, tmp_path / "out", rule="converted", incomplete=True)
    assert len(load_dataset(left.folder).table) == toy.CASES - 1


def test_killed_run_goes_on_and_ends_as_if_it_had_not_been(raw: Path, tmp_path: Path) -> None:
    out, never = tmp_path / "out", tmp_path / "never"
    command = [sys.executable, "-c", KILLED, str(raw), str(out)]
    environment = {**os.environ, toy.STOP_AT: "c6=kill"}
    killed = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == 9
    assert not (out / "manifest.csv").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in (out / "images").glob("c*.png")}
    assert 0 < len(finished) < toy.CASES
    prepare(raw, out, rule="converted")
    prepare(raw, never, rule="converted")
    assert {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}.items() >= finished.items()
    assert image_bytes(out) == image_bytes(never)
    assert (out / "manifest.csv").read_bytes() == (never / "manifest.csv").read_bytes()


def test_half_a_journal_line_costs_one_file(raw: Path, tmp_path: Path) -> None:
    out = prepare(raw, tmp_path / "out", rule="converted").folder
    before = image_bytes(out)
    journal = out / ".prepare" / "conversions.jsonl"
    journal.write_text(journal.read_text(encoding="utf-8")[:-30])
    prepare(raw, out, rule="converted")
    assert image_bytes(out) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_stops_with_what_is_done(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv(toy.STOP_AT, "c6=full")
    with pytest.raises(ConversionStoppedError, match=r"What is done is kept"):
        prepare(raw, tmp_path / "out", rule="converted", workers=workers)
    assert image_bytes(tmp_path / "out")
    monkeypatch.delenv(toy.STOP_AT)
    assert validate_folder(prepare(raw, tmp_path / "out", rule="converted").folder).ok


def test_changed_outputs_and_inputs_are_made_again(raw: Path, tmp_path: Path) -> None:
    out = prepare(raw, tmp_path / "out", rule="converted").folder
    before = image_bytes(out)
    (out / "images" / "c2.png").write_bytes(b"overwritten")
    np.save(raw / "arrays" / "c3.npy", np.zeros((8, 8), np.uint8))
    prepare(raw, out, rule="converted")
    after = image_bytes(out)
    assert {name for name in after if after[name] != before[name]} == {"c3.png"}


def test_another_choice_or_another_folder_is_refused(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "out")
    with pytest.raises(FileExistsError, match="'rule': 'referenced'"):
        prepare(raw, tmp_path / "out", rule="converted")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="something else"):
        prepare(raw, tmp_path / "mine")


def test_unwritable_output_is_a_clear_error(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file"):
        prepare(raw, tmp_path / "file" / "out")


def test_unmapped_values_stop_with_all_of_them(raw: Path, tmp_path: Path) -> None:
    file = raw / "meta.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",F,", ",W,").replace(",M,", ",?,", 2))
    with pytest.raises(DatasetError, match=r"'W' \(6\)"):
        prepare(raw, tmp_path / "out")


def test_wrong_choices_list_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"`rule` of toy must be one of: referenced .*; converted"):
        toy.DATASET.choose(rule="nothing")
    with pytest.raises(ValueError, match=r"`protocol` of toy must be one of: default .*; published"):
        toy.DATASET.choose(protocol="fairseg")


def test_splits_depend_on_the_seed_and_not_on_the_order_of_rows(raw: Path, tmp_path: Path) -> None:
    first = load_dataset(prepare(raw, tmp_path / "first").folder).table
    lines = (raw / "meta.csv").read_text(encoding="utf-8").splitlines()
    (raw / "meta.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert split_hash(load_dataset(prepare(raw, tmp_path / "second").folder).table) == split_hash(first)
    seeds = {split_hash(load_dataset(prepare(raw, tmp_path / f"s{n}", seed=n).folder).table) for n in range(5)}
    assert len(seeds) > 1
