from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairmedfm_monai.bundle.overrides import check_overrides


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"epochs": 1, "amp": False, "optimizer": {"lr": 0.1}, "train": {"dataset": {}}}))
    return str(path)


def test_a_misspelt_key_stops_and_the_right_one_is_offered(config: str) -> None:
    with pytest.raises(ValueError, match=r"--epoch .*did you mean epochs"):
        check_overrides(["run", "--config_file", config, "--epoch", "2"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "2"],
        ["--epochs=2"],
        ["--optimizer#lr", "0.2"],
        ["--train::dataset::data", "x"],
        ["--noamp"],
        ["--run_id", "export", "--tracking", "mlflow", "--run_name", "a"],
        ["--epochs", "-1"],
    ],
)
def test_known_keys_pass(config: str, arguments: list[str]) -> None:
    check_overrides(["run", "--config_file", config, *arguments])


def test_keys_of_all_merged_files_are_known(config: str, tmp_path: Path) -> None:
    overlay = tmp_path / "multi_gpu_train.json"
    overlay.write_text(json.dumps({"+imports": [], "sampler": {}}))
    check_overrides(
        ["run", "--config_file", f"['{config}','{overlay}']", "--sampler#shuffle", "True", "--imports", "[]"]
    )


def test_keys_with_a_dash_are_read_as_fire_reads_them(config: str) -> None:
    with pytest.raises(ValueError, match="data_dir"):
        check_overrides(["run", "--config_file", config, "--data-dir", "x"])


def test_programs_other_than_bundle_run_are_left_alone() -> None:
    check_overrides(["verify_metadata", "--nonsense", "1"])
    check_overrides([])
