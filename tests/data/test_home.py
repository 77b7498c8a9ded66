from __future__ import annotations

from pathlib import Path

import pytest

from fairmedfm_monai.data.home import home


def test_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path / "caches"))
    assert home() == tmp_path / "caches"


def test_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FAIRMEDFM_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home().name == "fairmedfm"
    assert home().is_absolute()
