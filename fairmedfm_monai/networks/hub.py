"""The Hugging Face hub: files from it, and what its refusals mean for who asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fairmedfm_monai.networks.integrity import WeightsError

# huggingface_hub reads this once, when it is first imported (open_clip and transformers import it too).
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

PAGE = "https://huggingface.co/{}"
_TOKENS = "https://huggingface.co/settings/tokens"


def offline() -> bool:
    """Whether the environment forbids downloads (FAIRMEDFM_OFFLINE or HF_HUB_OFFLINE set to 1, true, yes or on)."""
    values = (os.environ.get(name, "").lower() for name in ("FAIRMEDFM_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value in {"1", "true", "yes", "on"} for value in values)


def hub_file(repo: str, file: str, folder: Path) -> Path:
    """Bring one file of ``repo`` into ``folder``.

    Raises:
        Exception: whatever the hub's client raises; :func:`explain` says what it means.
    """
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, file, local_dir=folder))


def hub_files(repo: str, names: Sequence[str], folder: Path) -> None:
    """Bring those of ``names`` that ``repo`` has into ``folder``.

    Raises:
        Exception: whatever the hub's client raises; :func:`explain` says what it means.
    """
    from huggingface_hub import snapshot_download

    snapshot_download(repo, allow_patterns=list(names), local_dir=folder)


def explain(error: Exception, repo: str) -> str:
    """What an error of the hub's client means, and what to do about it.

    Args:
        error: as raised.
        repo: the repository that was asked, ``owner/name``.
    """
    from huggingface_hub import errors

    page, first = PAGE.format(repo), (str(error).splitlines() or [""])[0]
    if isinstance(error, WeightsError):
        return f"{repo}: {error}"
    if isinstance(error, errors.GatedRepoError):  # before the next, of which it is a kind
        return _gated(repo)
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub knows no repository {repo}, or only lets its members see it: look whether {page} opens in a "
            "browser, and set HF_TOKEN if it is private"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"the hub has closed the repository {repo}"
    if isinstance(error, (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)):
        cause = error.__cause__ or error
        detail = (str(cause).splitlines() or [""])[0]
        return (
            f"the hub was not reached for {repo} ({type(cause).__name__}: {detail}): look after the connection and the "
            "proxy, or bring the file by hand"
        )
    return f"{repo} failed ({type(error).__name__}: {first})"


def _gated(repo: str) -> str:
    """What to do about a repository whose terms have to be accepted, with and without a token."""
    from huggingface_hub import get_token

    page = PAGE.format(repo)
    if get_token() is None:
        return (
            f"{repo} is gated and no token was given: accept its terms at {page}, make a token at {_TOKENS}, set the "
            "environment variable HF_TOKEN to it and try again"
        )
    return (
        f"{repo} is gated and the token in use may not read it: accept its terms at {page} with the account of the "
        "token, wait for the approval where one is needed, and look whether the token may read gated repositories"
    )
