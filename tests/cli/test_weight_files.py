"""`weights status|fetch`: which files, where they go, and what comes of fetching them without a network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from fairmedfm_monai.catalog import Row, find_row, rows
from fairmedfm_monai.cli.main import main
from fairmedfm_monai.cli.weight_files import fetch, status
from fairmedfm_monai.networks import text
from fairmedfm_monai.networks.tokenizer_files import VOCABULARIES

WITH_TOKENIZER = [row for row in rows().values() if "tokenizer" in row.weights]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
    monkeypatch.setenv("FAIRMEDFM_OFFLINE", "1")
    return tmp_path


def put(*parts: str, home: Path) -> Path:
    path = home.joinpath("weights", *parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"bytes")
    return path


class AskedError(Exception):
    """Stops an encoder that asks for its tokenizer."""


@pytest.mark.parametrize("row", WITH_TOKENIZER, ids=lambda row: row.name)
def test_the_catalog_names_the_tokenizer_that_the_encoder_asks_for(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(repo: str, folder: str, cls: str, **_: Any) -> None:
        raise AskedError(repo, folder, cls)

    monkeypatch.setattr(text, "load_tokenizer", load)
    module, name = row.network.rsplit(".", 1)
    encoder = getattr(importlib.import_module(module), name)(weights="tiny")
    monkeypatch.setattr(text, "weights_kind", lambda _: "pretrained")
    with pytest.raises(AskedError) as caught:
        encoder.encode_text(["an effusion"])
    assert caught.value.args == tuple(row.weights["tokenizer"][key] for key in ("repo", "folder", "class"))


class TestStatus:
    def test_tokenizer_files_are_named_with_folder_and_repository(self, home: Path) -> None:
        vocabulary, settings = status(find_row("siglip2"))[-2:]
        for part in ("tokenizer.json or tokenizer.model", "missing", str(home / "weights" / "siglip2")):
            assert part in vocabulary
        assert "google/siglip2-base-patch16-224" in vocabulary
        assert "tokenizer_config.json" in settings

    @pytest.mark.parametrize("name", VOCABULARIES["Siglip2Tokenizer"])
    def test_one_vocabulary_is_enough(self, name: str, home: Path) -> None:
        path = put("siglip2", name, home=home)
        vocabulary, settings = status(find_row("siglip2"))[-2:]
        assert f"found    {path}" in vocabulary
        assert "missing" in settings
        put("siglip2", "tokenizer_config.json", home=home)
        assert "found" in status(find_row("siglip2"))[-1]

    @pytest.mark.parametrize("fm", ["clip", "dinov2", "sam", "demo_clip"])
    def test_models_without_such_files_have_no_such_line(self, fm: str) -> None:
        assert not any("tokenizer" in line for line in status(find_row(fm)))


class TestFetch:
    def test_what_is_there_is_found(self, home: Path) -> None:
        weights = put("siglip-base-patch16-224.safetensors", home=home)
        vocabulary = put("siglip", "spiece.model", home=home)
        assert fetch(find_row("siglip")) == f"{weights}, {vocabulary}"

    def test_what_is_missing_is_told_at_once_and_what_is_there_too(self, home: Path) -> None:
        vocabulary = put("siglip", "spiece.model", home=home)
        with pytest.raises(OSError, match=r"put siglip-base-patch16-224\.safetensors into") as caught:
            fetch(find_row("siglip"))
        assert f"there is: {vocabulary}" in str(caught.value)
        vocabulary.unlink()
        with pytest.raises(OSError, match=r"(?s)put siglip-base.*put its files \(spiece\.model"):
            fetch(find_row("siglip"))

    def test_both_are_brought(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def one(repo: str, file: str, *, local_dir: Path) -> str:
            (local_dir / file).write_bytes((2).to_bytes(8, "little") + b"{}")
            return str(local_dir / file)

        def some(repo: str, *, allow_patterns: list[str], local_dir: Path) -> None:
            for name in ("spiece.model", "tokenizer_config.json"):
                assert name in allow_patterns
                (local_dir / name).write_bytes(b"bytes")

        for name in ("FAIRMEDFM_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", one)
        monkeypatch.setattr("huggingface_hub.snapshot_download", some)
        fetch(find_row("medsiglip"))
        found = {str(path.relative_to(home / "weights")) for path in (home / "weights").rglob("*") if path.is_file()}
        wanted = {"medsiglip-448.safetensors", "medsiglip/spiece.model", "medsiglip/tokenizer_config.json"}
        assert found == wanted
        assert not any("missing" in line for line in status(find_row("medsiglip")))

    def test_the_command_ends_with_bad_input_and_no_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(["weights", "fetch", "--fm", "medsiglip"])
        assert stop.value.code == 3
        error = capsys.readouterr().err
        assert error.startswith("error: pretrained weights are not here: put medsiglip-448.safetensors into")
        assert "Traceback" not in error
