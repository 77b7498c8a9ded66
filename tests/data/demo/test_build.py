from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fairmedfm_monai.data.demo import build, fetch
from fairmedfm_monai.data.demo.build import SCAN_VARIABLE, demo_folder, ensure_demo
from fairmedfm_monai.data.demo.folder import building
from fairmedfm_monai.data.demo.scan import LIDC_PATIENT, Scan


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the scans that sets were made from; the makers write one file."""
    names: list[str] = []

    def make(output: Path, *, scan: Scan) -> Path:
        names.append(scan.name)
        with building(output) as folder:
            (folder / "dataset.json").write_text(scan.name)
        return output

    monkeypatch.setattr(build, "MAKERS", dict.fromkeys(build.MAKERS, make))
    return names


@pytest.fixture
def phantom_only(monkeypatch: pytest.MonkeyPatch, phantom: Scan) -> None:
    monkeypatch.setenv(SCAN_VARIABLE, "phantom")
    monkeypatch.setattr(build, "make_phantom", lambda: phantom)


@pytest.mark.usefixtures("phantom_only")
def test_a_set_is_made_once_whichever_way_it_is_named(made: list[str], tmp_path: Path) -> None:
    folder = ensure_demo("demo/xray", home=tmp_path)
    assert ensure_demo("xray", home=tmp_path) == folder
    assert folder.parent == tmp_path / "demo"
    assert made == ["phantom"]
    assert ensure_demo("demo/ct3d", home=tmp_path) != folder


@pytest.mark.usefixtures("phantom_only")
def test_the_cache_is_the_environments_home(made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path / "cache"))
    assert ensure_demo("demo/ct2d").is_relative_to(tmp_path / "cache")


@pytest.mark.usefixtures("phantom_only")
def test_two_at_once_make_it_once(made: list[str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: ensure_demo("demo/xray", home=tmp_path), range(4)))
    assert len(folders) == 1
    assert made == ["phantom"]


@pytest.mark.usefixtures("phantom_only")
def test_what_a_killed_build_left_is_not_taken_and_is_removed(made: list[str], tmp_path: Path) -> None:
    folder = demo_folder("xray", tmp_path, "phantom")
    left_over = folder.parent / f".partial-{folder.name}-abc"
    left_over.mkdir(parents=True)
    assert ensure_demo("demo/xray", home=tmp_path) == folder
    assert made == ["phantom"]
    assert not left_over.exists()


def test_without_a_network_the_phantom_is_used_until_the_scan_can_be_had(
    made: list[str], tmp_path: Path, phantom: Scan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(**_: object) -> Path:
        msg = "no network here"
        raise fetch.ScanUnavailableError(msg)

    monkeypatch.delenv(SCAN_VARIABLE, raising=False)
    monkeypatch.setattr(build, "make_phantom", lambda: phantom)
    monkeypatch.setattr(fetch, "fetch_scan", unavailable)
    stand_in = ensure_demo("demo/xray", home=tmp_path)
    assert "no network here" in caplog.text
    monkeypatch.setattr(fetch, "fetch_scan", lambda **_: tmp_path)
    monkeypatch.setattr(build, "read_scan", lambda _: phantom)
    real = ensure_demo("demo/xray", home=tmp_path)
    assert real == demo_folder("xray", tmp_path, LIDC_PATIENT)
    assert real != stand_in
    monkeypatch.setattr(fetch, "fetch_scan", unavailable)
    assert ensure_demo("demo/xray", home=tmp_path) == real


def test_the_folders_name_follows_what_decides_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = demo_folder("xray", tmp_path, "phantom"), demo_folder("ct2d", tmp_path, "phantom")
    monkeypatch.setattr(build.bias, "DEFAULT_STRENGTH", 1.23)
    assert demo_folder("xray", tmp_path, "phantom") != before[0]
    assert demo_folder("ct2d", tmp_path, "phantom") == before[1]
    monkeypatch.setattr(build, "VERSION", 99)
    assert demo_folder("ct2d", tmp_path, "phantom") != before[1]


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demo/xray, demo/ct2d, demo/ct3d"):
        ensure_demo("demo/mri", home=tmp_path)
