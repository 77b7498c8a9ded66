"""Case and patient ids as salted hashes, for files that may leave the house."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import pandas as pd

SALT_FILE = "salt.txt"
_HASH_LENGTH = 16


def private_salt(folder: str | Path) -> str:
    """The salt of this user on this machine, made on first use and readable by its owner only.

    One salt for all runs, so that the same case has the same hash in two runs (paired comparison) and the owner can
    match hashes to ids again; without the salt nobody can, not even by trying all ids.

    Args:
        folder: the package's home folder. When it cannot be written the salt holds for this run only.
    """
    file = Path(folder) / SALT_FILE
    fresh = secrets.token_hex(16)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            return file.read_text(encoding="ascii").strip() or fresh
        # O_EXCL: never replace a salt that another process has written meanwhile.
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError:
        return fresh
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(fresh)
    return fresh


def hash_id(value: str, salt: str) -> str:
    """HMAC-SHA256 of an id, its first 16 hex digits."""
    return hmac.new(salt.encode(), value.encode(), hashlib.sha256).hexdigest()[:_HASH_LENGTH]


def hide_ids(predictions: pd.DataFrame, salt: str) -> pd.DataFrame:
    """A copy whose case and patient ids are hashes and whose failure texts name no case and no file.

    Args:
        predictions: table with ``case_id``, ``patient_id`` and ``failed``.
        salt: from :func:`private_salt`.
    """
    hidden = predictions.copy()
    for column in ("case_id", "patient_id"):
        hidden[column] = [hash_id(str(value), salt) for value in predictions[column]]
    # Messages of readers quote paths, and paths hold names: only the fact that a case failed stays.
    hidden["failed"] = ["" if not reason else "could not be used" for reason in predictions["failed"]]
    return hidden
