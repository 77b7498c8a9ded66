from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fairmedfm_monai.cli import study as studying
from fairmedfm_monai.cli.main import main
from fairmedfm_monai.studies.spec import study_names
from tests.studies.small import small_study


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(small_study()), encoding="utf-8")
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["study", *map(str, arguments)])
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


@pytest.mark.parametrize("arguments", [("--list",), ()])
def test_studies_are_listed(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    for name in study_names():
        assert f"\n{name} " in f"\n{out}"
    assert "cannot be read" not in out
    assert "cells (" in out


def test_dry_run_writes_nothing(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    code, out, _ = call(capsys, file, "--dry-run", "--output", "out", "--only", "made/demo_clip/*,lungs/*")
    assert code == 0
    assert "32 cells: 7 ready" in out
    assert "1 no data" in out
    assert "dry run: nothing was written" in out
    assert list(work.iterdir()) == []


def test_seeds_and_overrides_reach_the_plan(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, _ = call(capsys, file, "--dry_run", "--seeds", "3", "--overrides", '{"train": {"epochs": 1}}')
    assert code == 0
    assert "18 cells" in out
    code, out, _ = call(capsys, file, "--dry_run", "--seeds", "3,4,5")
    assert "46 cells" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing",), "`name` must be a study"),
        (("{file}", "--dry_run", "--only", "x/*"), "no cell answers to 'x/*'"),
        (("{file}", "--dry_run", "--seeds", "a"), "`seeds` must be different whole numbers"),
        (("{file}", "--dry_run", "--seeds", "1,1"), "`seeds` must be different whole numbers"),
        (("{file}", "--dry_run", "--overrides", "{{"), "`overrides` must be JSON"),
        (("{file}", "--dry_run", "--overrides", "[1]"), "`overrides` must be a JSON object"),
        (("{file}", "--dry_run", "--overrides", '{{"train": {{"epoch": 1}}}}'), "has the key 'epoch'"),
        (("{file}", "--dry_run", "yes"), "`--dry_run` stands alone"),
        (("{file}", "--jobs", "0"), "`jobs` must be a whole number from 1"),
        (("{file}", "--n_bootstrap", "many"), "`n_bootstrap` must be a whole number from 0"),
        (("{file}", "--collect_only", "--run_only"), "exclude each other"),
        (("{file}", "--dryrun"), "unknown options: --dryrun; did you mean 'dry_run'?"),
    ],
)
def test_bad_input_ends_with_3(
    capsys: pytest.CaptureFixture[str], file: Path, arguments: tuple[str, ...], told: str
) -> None:
    code, _, err = call(capsys, *(argument.format(file=file) for argument in arguments))
    assert code == 3
    assert told in err


class Calls:
    """Stands for running and collecting: notes what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, well: bool = True) -> None:
        self.names: list[str] = []
        self.well = well
        monkeypatch.setattr("fairmedfm_monai.studies.run.run_study", self.run)
        monkeypatch.setattr("fairmedfm_monai.studies.page.write_results", self.collect)

    def run(self, study: object, plan: list, **options: object) -> bool:
        self.names.append("run")
        self.plan, self.options = plan, options
        return self.well

    def collect(self, study: object, plan: list, output: Path) -> Path:
        self.names.append("collect")
        return output / "index.html"


def test_data_are_made_before_the_run(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    out = tmp_path / "out"
    code, printed, _ = call(
        capsys, file, "--output", out, "--only", "seeded/demo_clip/*/erm/seed1", "--jobs", "2", "--tracking_uri", "off"
    )
    assert code == 0
    assert calls.names == ["run", "collect"]
    ready = [planned for planned in calls.plan if planned.status == "ready"]
    assert len(ready) == 2
    assert all((planned.dataset_dir / "dataset.json").is_file() for planned in ready)
    made = [folder.name for folder in (out / "data").iterdir() if folder.is_dir()]
    assert len(made) == 1  # nothing for cells that were left out
    assert made[0].startswith("seeded-seed1-")
    assert calls.options == {
        "output": out,
        "weights": "pretrained",
        "n_bootstrap": 1000,
        "jobs": 2,
        "tracking_uri": "off",
    }
    assert f"wrote {out / 'index.html'}" in printed


def test_a_failed_cell_ends_with_1_after_the_tables(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, well=False)
    code, _, _ = call(capsys, file, "--output", tmp_path / "out", "--only", "lungs/*")
    assert code == 1
    assert calls.names == ["run", "collect"]


@pytest.mark.parametrize(("flag", "done"), [("--collect_only", ["collect"]), ("--run_only", ["run"])])
def test_halves_of_the_work(
    capsys: pytest.CaptureFixture[str],
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    done: list[str],
) -> None:
    calls = Calls(monkeypatch)
    code, _, _ = call(capsys, file, flag, "--output", tmp_path / "out", "--only", "lungs/*")
    assert code == 0
    assert calls.names == done


def test_download_fetches_what_cells_lack(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Calls(monkeypatch)
    asked: list[tuple[str, str | None]] = []

    def fetch(row: object, variant: str | None) -> str:
        asked.append((row.name, variant))  # type: ignore[attr-defined]
        raise OSError("the hub was not reached")

    monkeypatch.setattr("fairmedfm_monai.cli.weight_files.fetch", fetch)
    options = (file, "--output", tmp_path / "out", "--only", "made/clip-*")
    call(capsys, *options, "--dry_run", "--download")
    call(capsys, *options)
    assert asked == []
    code, out, _ = call(capsys, *options, "--download")
    assert asked == [("clip", "ViT-B-16-quickgelu")]
    assert "weights of clip: the hub was not reached" in out
    assert code == 0


def test_the_command_loads_nothing_heavy_before_it_is_used() -> None:
    heavy = "('torch', 'monai', 'pandas', 'fairmedfm_monai.studies.plan')"
    code = f"import sys; import fairmedfm_monai.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for option in ("only", "dry_run", "overrides", "collect_only", "tracking_uri", "download"):
        assert f"{option}: " in out


def test_parsed_values() -> None:
    assert studying.parsed_seeds("0, 2") == [0, 2]
    assert studying.parsed_seeds(None) is None
    assert studying.parsed_overrides('{"train": {}}') == {"train": {}}


def test_export_asks_for_the_same_study_from_any_folder(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--output", "out", "--weights", "tiny", "--seeds", "0,1", "--overrides", '{"train": {"epochs": 1}}')
    code, out, _ = call(capsys, file.name, *options, "--only", "made/demo_clip/*", "--export", "flow")
    assert code == 0
    assert "wrote flow/Snakefile" in out
    content = json.loads((tmp_path / "flow" / "plan.json").read_text(encoding="utf-8"))
    assert len(content["cells"]) == 7
    command = shlex.split(content["command"])[3:]
    monkeypatch.chdir("/")
    code, out, _ = call(capsys, *command[1:], "--dry_run", "--only", "made/demo_clip/*")
    assert code == 0
    assert "7 ready" in out
