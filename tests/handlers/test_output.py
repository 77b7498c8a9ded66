from __future__ import annotations

from types import SimpleNamespace

import pytest

from fairmedfm_monai.handlers.output import exit_on_failures, free_output_dir
from fairmedfm_monai.reporting.files import write_atomic


def test_free_folder_is_taken_as_it_is_and_not_created(tmp_path):
    assert free_output_dir(tmp_path / "eval") == str(tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_logs_and_databases_do_not_make_a_folder_a_run(tmp_path):
    (tmp_path / "eval").mkdir()
    for name in ("config_20250101.json", "mlruns.db", "schema.json"):
        (tmp_path / "eval" / name).touch()
    assert free_output_dir(tmp_path / "eval") == str(tmp_path / "eval")


@pytest.mark.parametrize("name", ["predictions.parquet", "report.html", "predictions.csv", "case_mask.nii.gz"])
def test_next_free_number_is_taken(tmp_path, name):
    for folder in ("eval", "eval-01"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    assert free_output_dir(tmp_path / "eval") == str(tmp_path / "eval-02")
    assert free_output_dir(tmp_path / "eval", overwrite=True) == str(tmp_path / "eval")


def test_file_in_the_way_is_named(tmp_path):
    (tmp_path / "eval").touch()
    with pytest.raises(NotADirectoryError, match="eval"):
        free_output_dir(tmp_path / "eval")


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "a.txt"
    write_atomic(target, lambda path: path.write_text("old"))

    def half(path):
        path.write_text("ne")
        msg = "disk full"
        raise OSError(msg)

    with pytest.raises(OSError, match="disk full"):
        write_atomic(target, half)
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_written_file_has_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert write_atomic(tmp_path / "b", lambda path: path.touch()).stat().st_mode == plain.stat().st_mode


def test_exit_status_tells_failed_cases(capsys):
    exit_on_failures(SimpleNamespace(state=SimpleNamespace(failed_cases=[])))
    exit_on_failures(SimpleNamespace(state=SimpleNamespace()))
    state = SimpleNamespace(failed_cases=[f"case{i}: broken" for i in range(25)], output_dir="eval-03")
    with pytest.raises(SystemExit) as caught:
        exit_on_failures(SimpleNamespace(state=state))
    assert caught.value.code == 4
    text = capsys.readouterr().out
    assert "case0: broken" in text
    assert "5 more" in text
    assert "eval-03" in text
