"""What the hub's refusals are turned into; the hub itself is not reached here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors

from fairmedfm_monai.networks.integrity import WeightsError
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights

HUB = WeightSource(
    names=("net.safetensors", "net.bin"),
    page="https://huggingface.co/owner/net",
    repo="owner/net",
    repo_files=("model.safetensors", "pytorch_model.bin"),
)
REACHED = "was not reached"


def refused(kind: type[errors.HfHubHTTPError]) -> Exception:
    """As the hub's client raises it for an answer of the server."""
    return kind("4xx Client Error.\n\nMore lines", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]


def unreachable() -> Exception:
    error = errors.LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub.")
    error.__cause__ = ConnectionRefusedError("Connection refused")
    return error


class TestHub:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("FAIRMEDFM_HOME", str(tmp_path))
        for name in ("FAIRMEDFM_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        return tmp_path

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], list[str]]:
        """Makes the hub answer every request with an error, and says what it was asked for."""

        def answer(error: Exception) -> list[str]:
            files: list[str] = []

            def download(repo: str, file: str, *, local_dir: Path) -> str:
                files.append(file)
                raise error

            monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
            return files

        return answer

    @pytest.mark.parametrize(
        ("error", "parts"),
        [
            (unreachable(), [REACHED, "ConnectionRefusedError: Connection refused", "proxy", "by hand"]),
            (errors.OfflineModeIsEnabled("offline"), [REACHED, "by hand"]),
            (refused(errors.GatedRepoError), ["gated and no token was given", "accept its terms", "HF_TOKEN"]),
            (refused(errors.RepositoryNotFoundError), ["knows no repository owner/net", "HF_TOKEN if it is private"]),
            (refused(errors.DisabledRepoError), ["has closed the repository owner/net"]),
            (refused(errors.HfHubHTTPError), ["owner/net failed (HfHubHTTPError: 4xx Client Error.)"]),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_each_refusal_is_told_apart_with_what_to_do(
        self, error: Exception, parts: list[str], asked: Callable[[Exception], list[str]], home: Path
    ) -> None:
        files = asked(error)
        with pytest.raises(WeightsError) as caught:
            resolve_weights("pretrained", HUB)
        for part in (*parts, f"put net.safetensors (or net.bin) into {home / 'weights'}", HUB.page):
            assert part in str(caught.value)
        assert (REACHED in parts) == (REACHED in str(caught.value))
        assert files == ["model.safetensors"]  # asking for the next file would not help

    def test_a_token_without_access_is_told_apart(
        self, asked: Callable[[Exception], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked(refused(errors.GatedRepoError))
        monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
        with pytest.raises(WeightsError, match="the token in use may not read it: accept its terms at") as caught:
            resolve_weights("pretrained", HUB)
        assert "hf_secret" not in str(caught.value)

    def test_a_repository_without_the_files_is_asked_for_each(self, asked: Callable[[Exception], list[str]]) -> None:
        files = asked(refused(errors.RemoteEntryNotFoundError))
        message = r"owner/net: it has none of model\.safetensors, pytorch_model\.bin; look how its files are called"
        with pytest.raises(WeightsError, match=message) as caught:
            resolve_weights("pretrained", HUB)
        assert files == list(HUB.repo_files)
        assert REACHED not in str(caught.value)

    def test_the_second_file_takes_the_name_with_its_suffix(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(repo: str, file: str, *, local_dir: Path) -> str:
            if file == "model.safetensors":
                raise refused(errors.RemoteEntryNotFoundError)
            torch.save({"a": torch.zeros(1)}, local_dir / file)
            return str(local_dir / file)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        assert resolve_weights("pretrained", HUB) == home / "weights" / "net.bin"
        assert [path.name for path in (home / "weights").iterdir()] == ["net.bin"]
