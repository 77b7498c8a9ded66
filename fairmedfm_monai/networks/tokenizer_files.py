"""Files of tokenizers: which one holds a vocabulary, where it goes, and how it comes from the hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairmedfm_monai.data.home import home
from fairmedfm_monai.networks.hub import PAGE, explain, hub_files, offline
from fairmedfm_monai.networks.integrity import WeightsError

# Class of transformers -> files of which any one holds its vocabulary, the preferred one first.
VOCABULARIES: Mapping[str, tuple[str, ...]] = {
    "BertTokenizer": ("tokenizer.json", "vocab.txt"),
    "SiglipTokenizer": ("spiece.model",),  # of sentencepiece
    "Siglip2Tokenizer": ("tokenizer.json", "tokenizer.model"),  # of sentencepiece
}
# These only add settings to it.
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def fetch_tokenizer(repo: str, folder: str, vocabularies: Sequence[str]) -> Path:
    """Bring the files of a tokenizer into ``<FAIRMEDFM_HOME>/weights/<folder>``, or find them there.

    Args:
        repo: Hugging Face repository.
        folder: folder inside the folder of weights.
        vocabularies: files of which one is enough, the preferred one first.

    Returns:
        The vocabulary.

    Raises:
        WeightsError: naming the files, the folder and the repository, if they are neither here nor to be had.
    """
    place = home() / "weights" / folder
    reason = "downloads are switched off (FAIRMEDFM_OFFLINE or HF_HUB_OFFLINE)"
    found = find_vocabulary(place, vocabularies)
    if found is None and not offline():
        try:
            _download(repo, place, vocabularies)
        except Exception as error:  # whatever a network client raises, the user needs the same advice
            reason = explain(error, repo)
        else:
            reason = f"{repo} has none of {', '.join(vocabularies)}"
        found = find_vocabulary(place, vocabularies)
    if found is None:
        msg = (
            f"the tokenizer is not here: put its files ({' or '.join(vocabularies)}, and tokenizer_config.json where "
            f"there is one) into {place}. They come from {PAGE.format(repo)}. Tried: no local file; {reason}"
        )
        raise WeightsError(msg)
    return found


def find_vocabulary(place: Path, vocabularies: Sequence[str]) -> Path | None:
    """The first of ``vocabularies`` that lies in ``place``, or None."""
    return next((place / name for name in vocabularies if (place / name).is_file()), None)


def _download(repo: str, place: Path, vocabularies: Sequence[str]) -> None:
    """Download beside the target, then move: the hub's client takes a folder that holds anything for a whole copy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".download-") as name:
        hub_files(repo, [*vocabularies, *SETTINGS], Path(name))
        for file in (Path(name) / wanted for wanted in (*SETTINGS, *vocabularies)):  # the vocabulary last: it counts
            if file.is_file():
                place.mkdir(exist_ok=True)
                shutil.move(file, place / file.name)
