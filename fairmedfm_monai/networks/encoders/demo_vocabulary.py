"""The words that ``demo_clip`` knows, and how a text becomes their numbers."""

from __future__ import annotations

import re
import warnings

import torch

PAD, UNKNOWN = 0, 1
MAX_TOKENS = 32

WORDS = tuple(
    """
    a an the this that of in on at to with without for from by and or is are was be as it there no not any never
    free absent absence nothing negative positive only one single some
    chest thorax thoracic x ray radiograph radiographic radiography cxr film image imaging picture photo scan exam
    examination study view projection frontal ap pa anteroposterior portable digital medical
    patient person subject adult woman man female male lady gentleman old elderly older young younger aged healthy
    normal unremarkable clear clean well sick ill diseased disease abnormal abnormality abnormalities pathology
    pathological finding findings acute significant relevant suspicious suspected suspicion evidence sign signs
    nodule nodules nodular lesion lesions mass masses opacity opacities tumour tumor tumours tumors density shadow spot
    coin round rounded focal focus circumscribed solid pulmonary lung lungs
    small tiny little subtle minor medium moderate moderately sized large big sizeable huge larger smaller size
    left right sided side upper middle mid lower apical basal top bottom lobe zone field region part
    show shows showing shown see seen visible demonstrates demonstrating reveals contains containing has have having
    present depicts depicting displays displaying demonstrated detected identified observed found noted located lies
    appears appearance
    """.split()  # noqa: SIM905 (a list of literals would be two hundred lines)
)
"""Every word occurs in the captions of the training, so that none of them is an untrained vector; only `see` does not:
it keeps its number but is read as `seen` (``ALIASES``)."""

ALIASES = {
    "xray": ("x", "ray"),
    "xrays": ("x", "ray"),
    "rays": ("ray",),
    "radiographs": ("radiograph",),
    "films": ("film",),
    "images": ("image",),
    "pictures": ("picture",),
    "scans": ("scan",),
    "patients": ("patient",),
    "see": ("seen",),
    "women": ("woman",),
    "men": ("man",),
    "lobes": ("lobe",),
    "zones": ("zone",),
    "midzone": ("middle", "zone"),
}


def split_words(text: str) -> list[str]:
    """Lower-case words of a text; hyphens and punctuation part words, spelling variants become the known form."""
    words: list[str] = []
    for word in re.findall(r"[a-z]+|[0-9]+", text.lower()):
        words.extend(ALIASES.get(word, (word,)))
    return words


class WordTokenizer:
    """Turns texts into word numbers and reports every word outside the vocabulary once.

    Attributes:
        words: the vocabulary; word ``words[i]`` has the number ``i + 2`` (0 pads, 1 stands for unknown words).
        unknown_seen: unknown words met so far.
    """

    def __init__(self) -> None:
        self.words = WORDS
        self.unknown_seen: set[str] = set()
        self._number = {word: index + 2 for index, word in enumerate(WORDS)}

    def __len__(self) -> int:
        return len(self.words) + 2

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the vocabulary lacks, in order, each once."""
        return [word for word in dict.fromkeys(split_words(text)) if word not in self._number]

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Word numbers.

        Args:
            texts: N non-empty texts; words after the 32nd are dropped with a warning.

        Returns:
            (N, L) int64, L = words of the longest text, padded with 0.

        Raises:
            ValueError: no texts, or a text without a single known word (its embedding would mean nothing).
        """
        if not texts:
            msg = "`texts` is empty; give at least one prompt"
            raise ValueError(msg)
        split = [split_words(text) for text in texts]
        for text, words in zip(texts, split, strict=True):
            if not any(word in self._number for word in words):
                msg = (
                    f"demo_clip knows no word of the prompt {text!r}; its vocabulary are {len(self.words)} words of "
                    "chest radiography, see fairmedfm_monai.networks.encoders.demo_vocabulary.WORDS"
                )
                raise ValueError(msg)
        self._report(split)
        length = min(MAX_TOKENS, max(len(words) for words in split))
        numbers = torch.full((len(split), length), PAD, dtype=torch.int64)
        for row, words in enumerate(split):
            kept = [self._number.get(word, UNKNOWN) for word in words[:MAX_TOKENS]]
            numbers[row, : len(kept)] = torch.tensor(kept)
        return numbers

    def _report(self, split: list[list[str]]) -> None:
        new = {word for words in split for word in words if word not in self._number} - self.unknown_seen
        if new:
            self.unknown_seen |= new
            warnings.warn(
                f"demo_clip does not know {', '.join(sorted(new))}; they count as one unknown word without meaning. "
                "Rephrase the prompt with words of demo_vocabulary.WORDS",
                stacklevel=3,
            )
        longest = max(len(words) for words in split)
        if longest > MAX_TOKENS:
            warnings.warn(f"a prompt has {longest} words; demo_clip reads the first {MAX_TOKENS}", stacklevel=3)
