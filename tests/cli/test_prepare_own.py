"""The real command line of `prepare table|dicom|bids`: texts reach the program as they were typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fairmedfm_monai.cli.main import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name and values python-fire would take for numbers, tuples and flags."""
    folder = tmp_path_factory.mktemp("typed") / "2021"
    folder.mkdir()
    rows = []
    for index in range(12):
        Image.new("L", (8, 8)).save(folder / f"{index}.png")
        code = ("1e3", "007", "-", "A, B", "a=b", "ward")[index % 6]
        rows.append(
            {"file name": f"{index}.png", "pid": index, "dx (0,1)": index % 2, "code": code, "bmi": 17.5 + index}
        )
    pd.DataFrame(rows).to_csv(folder / "meta.csv", index=False)
    return folder


def command(source: Path, output: Path, *more: str) -> list[str]:
    columns = r"image=file name,patient_id=pid,label=dx (0\,1),code=code,bmi=bmi"
    fixed = ("--table", "meta.csv", "--modality", "xray", "--columns", columns, "--bins", "bmi=18.5,25,30")
    return ["prepare", "table", "--source", str(source), "--output", str(output), *fixed, *more]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def test_a_shell_s_command_line(source: Path, tmp_path: Path) -> None:
    wanted = command(
        Path(source.name), tmp_path / "out", "--missing", "1e3", r"--groups=code:odd=007|-,pair=A\, B|a\=b,ward=ward"
    )
    done = subprocess.run(
        [sys.executable, "-m", "fairmedfm_monai", *wanted],
        cwd=source.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))["attributes"]
    assert entry["code"]["missing"] == ["1e3"]
    assert entry["code"]["groups"] == {"odd": ["007", "-"], "pair": ["A, B", "a=b"], "ward": ["ward"]}
    assert entry["bmi"]["groups"] == ["lt18.5", "18.5-lt25", "25-lt30", "ge30"]
    assert f"next: python -m fairmedfm_monai validate {tmp_path / 'out'}" in done.stdout


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        (("--missing", r"1e3,-,a\=b"), ["-", "1e3", "a=b"]),
        (("--missing=-,1e3,a\\=b",), ["-", "1e3", "a=b"]),
        (("--missing", r"007,code=a\=b|-"), ["-", "007", "a=b"]),
    ],
)
def test_missing_values_stay_texts(
    capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path, more: tuple[str, ...], missing: list[str]
) -> None:
    code, _, err = call(capsys, *command(source, tmp_path / "out", *more, "--seed", "3"))
    assert code == 0, err
    assert (
        sorted(
            json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))["attributes"]["code"]["missing"]
        )
        == missing
    )
    assert json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))["seed"] == 3


@pytest.mark.parametrize("kind", ["table", "dicom", "bids"])
def test_a_kind_alone_explains_itself(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, _, err = call(capsys, "prepare", kind)
    assert code == 3
    for word in ("--columns", "--missing", f"prepare {kind} --source", "never guessed"):
        assert word in err


def test_help_is_told_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "prepare", "dicom", "--help")
    assert (code, "--secondary_captures" in out) == (0, True)
    code, out, _ = call(capsys, "prepare", "--help")
    assert (code, "table, dicom or bids" in out) == (0, True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--colums", "a=b"), "did you mean 'columns'"),
        (("--key", "file"), "prepare table has no option --key"),
        (("--missing", "--seed", "1"), "`--missing` needs a text"),
        (("--seed", "one"), "`--seed` must be a whole number"),
        (("--incomplete", "yes"), "`--incomplete` stands alone"),
        (("--modality", "x-ray"), "`--modality` must be one of xray"),
        (("--columns", "image=file name,", "label=dx"), "belongs to no option"),
        (("--labels", "a=b"), "`--labels` must be names and values"),
        (("--window", "40;400"), "`--window` must be a name"),
    ],
)
def test_typing_errors_end_with_3(
    capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    code, _, err = call(capsys, *command(source, tmp_path / "out", *more))
    assert code == 3
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_window_is_a_name_or_two_numbers(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    groups = ("--groups", "code:a=007|1e3,b=A\\, B|-|a\\=b|ward", "--modality", "ct")
    for window, wanted in (("40,400", [40, 400]), ("lung", "lung")):
        code, _, err = call(capsys, *command(source, tmp_path / window, *groups, "--window", window))
        assert code == 0, err
        assert json.loads((tmp_path / window / "dataset.json").read_text(encoding="utf-8"))["window"] == wanted
