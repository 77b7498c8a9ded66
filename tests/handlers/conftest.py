from __future__ import annotations

import pytest

from tests.handlers import toy


@pytest.fixture(scope="session")
def xray(tmp_path_factory):
    return toy.load(toy.write_xray(tmp_path_factory.mktemp("data") / "xray"))


@pytest.fixture(scope="session")
def ct(tmp_path_factory):
    return toy.load(toy.write_ct(tmp_path_factory.mktemp("data") / "ct"))


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory):
    """One database for the whole session: making one costs seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlruns.db"
