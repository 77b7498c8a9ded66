from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.cli.main import COMMANDS, main


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def test_catalog_lists_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "catalog")
    assert code == 0
    for name in ("clip", "demo_clip", "sam", "medsam", "demo_sam"):
        assert f"\n{name} " in f"\n{out}"


def test_bundle_says_what_it_wrote(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "bundle", "sam_segmentation_prompted", "--output", str(tmp_path))
    assert code == 0
    assert str(tmp_path / "sam_segmentation_prompted") in out
    assert (tmp_path / "sam_segmentation_prompted" / "configs" / "inference.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("bundle", "clip_clasification_lora"),
        ("bundle",),
        ("catalog", "clp"),
        ("weights", "stauts"),
        ("weights", "fetch", "--fm", "demo_clip"),
        ("evaluate", "nothing.parquet"),
        ("prepare", "demo/nothing"),
    ],
)
def test_bad_input_ends_with_3(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 3
    assert err


def test_validate_prints_the_counts(capsys: pytest.CaptureFixture[str], xray_dir: Path) -> None:
    code, out, _ = call(capsys, "validate", str(xray_dir))
    assert code == 0
    for word in ("train", "val", "test", "female", "male", "finding"):
        assert word in out


def test_validate_fails_on_a_broken_folder(capsys: pytest.CaptureFixture[str], xray_dir: Path, tmp_path: Path) -> None:
    table = pd.read_csv(xray_dir / "manifest.csv")
    table.loc[0, "image"] = "images/gone.png"
    table.to_csv(tmp_path / "manifest.csv", index=False)
    (tmp_path / "dataset.json").write_bytes((xray_dir / "dataset.json").read_bytes())
    code, out, _ = call(capsys, "validate", str(tmp_path))
    assert code == 1
    assert "gone.png" in out


def test_evaluate_takes_any_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 300)
    table = pd.DataFrame(
        {"y": label, "p": rng.random(300) * 0.5 + label * 0.4, "sex": rng.choice(["F", "M", None], 300)}
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    arguments = ("--attributes", "sex", "--label", "y", "--score", "p", "--n_bootstrap", "50")
    code, out, err = call(capsys, "evaluate", str(tmp_path / "table.csv"), "--output", str(tmp_path / "r"), *arguments)
    assert code == 0, err
    assert "report.html" in out
    subgroups = pd.read_csv(tmp_path / "r" / "subgroups.csv", keep_default_na=False)
    assert {"F", "M", "unknown"} <= set(subgroups["group"])
    from sklearn.metrics import roc_auc_score

    mine = float(subgroups.query("group == 'F' and metric == 'auc'")["value"].iloc[0])
    women = table[table["sex"] == "F"]
    assert mine == pytest.approx(roc_auc_score(women["y"], women["p"]), abs=1e-9)


def test_evaluate_names_the_columns_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pd.DataFrame({"y": [0, 1], "p": [0.1, 0.2]}).to_csv(tmp_path / "table.csv", index=False)
    code, _, err = call(capsys, "evaluate", str(tmp_path / "table.csv"), "--attributes", "sex")
    assert code == 3
    assert "no column sex, label, score; its columns are y, p" in err


def test_weights_status_names_file_and_folder(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "weights", "status", "--fm", "sam")
    assert code == 0
    assert "sam_vit_b_01ec64.pth" in out
    assert "missing" in out


def test_every_command_has_complete_help() -> None:
    for name, command in COMMANDS.items():
        text = command.__doc__ or ""
        for argument in list(command.__code__.co_varnames)[: command.__code__.co_argcount]:
            assert f"{argument}:" in text, f"{name} does not describe {argument}"


def test_light_commands_load_no_torch() -> None:
    code = (
        "import sys\nfrom fairmedfm_monai.cli.main import main\n"
        "try:\n    main(['weights', 'status'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'monai', 'transformers', 'open_clip'} & set(sys.modules)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 60  # a hang, not a speed test
