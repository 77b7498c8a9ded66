"""Captions for the contrastive training of ``demo_clip``: templates over the facts of a synthetic radiograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MENTION = 0.6  # probability that a caption names the size, the side or the zone
SMALL_MM, LARGE_MM = 8.0, 11.0  # nodule radius below which it is "small", above which it is "large"

MODALITIES = (
    "chest x-ray", "x-ray", "chest radiograph", "radiograph", "frontal chest x-ray", "frontal radiograph", "cxr",
    "chest film", "ap chest film", "pa chest radiograph", "portable chest x-ray", "digital radiograph", "x-ray image",
    "anteroposterior chest radiograph", "chest x-ray image", "thoracic radiograph", "radiographic image",
    "medical image", "x-ray picture", "x-ray photo", "chest scan", "chest exam", "chest x-ray examination",
    "x-ray study", "frontal view", "frontal projection", "chest radiography", "imaging of the thorax", "x-ray scan",
)  # fmt: skip
PEOPLE = (
    "patient", "person", "subject", "adult", "woman", "man", "female patient", "male patient", "old woman", "old man",
    "young woman", "young man", "elderly patient", "older adult", "younger person", "lady", "gentleman", "aged man",
)  # fmt: skip
NOUNS = (
    "nodule", "lung nodule", "pulmonary nodule", "lesion", "lung lesion", "pulmonary lesion", "mass", "lung mass",
    "nodular opacity", "round opacity", "focal opacity", "opacity", "coin lesion", "rounded density", "tumour", "tumor",
    "lung tumor", "shadow", "round shadow", "spot", "focal lesion", "circumscribed mass", "solid nodule",
    "suspicious nodule", "finding", "abnormality", "nodular density", "nodular appearance", "round focus",
)  # fmt: skip
PLURALS = (
    "nodules", "lesions", "masses", "opacities", "tumours", "tumors", "findings", "abnormalities", "lung nodules",
    "acute findings", "abnormal findings", "relevant findings", "suspicious lesions",
)  # fmt: skip
SIZES = {
    "small": ("small", "tiny", "little", "subtle", "minor", "smaller", "small sized"),
    "medium": ("medium", "medium-sized", "moderate", "moderately sized", "medium size"),
    "large": ("large", "big", "sizeable", "huge", "larger", "large sized"),
}
ZONES = {"upper": ("upper", "top", "apical"), "middle": ("middle", "mid"), "lower": ("lower", "bottom", "basal")}
PLACES = ("lung", "lobe", "zone", "lung field", "lung zone", "region", "part of the lung", "field")

POSITIVE = (
    "a {m} with {n}", "{m} with {n}", "a {m} of a {p} with {n}", "a {m} showing {n}", "the {m} shows {n}",
    "{m} shows {n}", "this {m} demonstrates {n}", "{m} demonstrating {n}", "a {m} that reveals {n}", "there is {n}",
    "there is {n} on this {m}", "{n}", "{n} seen on {m}", "{n} is seen", "{n} is present", "{n} is visible",
    "{n} visible in the {m}", "a {m} containing {n}", "the image contains {n}", "evidence of {n}", "signs of {n}",
    "sign of {n}", "the {p} has {n}", "{m} positive for {n}", "{m} suspicious for {n}",
    "suspected {n}", "suspicion of {n}", "{n} detected", "{n} was identified", "{n} was observed", "{n} was found",
    "{n} noted", "{n} was demonstrated", "a {m} depicting {n}", "the {m} depicts {n}", "a {m} displaying {n}",
    "the {m} displays {n}", "there appears to be {n}", "some sign of {n}", "only one {b}", "a single {b}",
    "a {m} having {n}", "lungs have {n}", "lungs with {n}", "significant {b}", "{n} shown by {m}", "lungs show {n}",
    "a {m} and it shows {n}", "{n} as seen on {m}", "a {m} from a {p} with {n}",
)  # fmt: skip
POSITIVE_BARE = (
    "abnormal {m}", "an abnormal {m}", "a {m} of a sick {p}", "a {m} of an ill {p}", "a {m} of a diseased {p}",
    "diseased", "diseased lungs", "abnormal lungs", "abnormal", "sick {p}", "a {m} with disease", "lung disease",
    "pathological {m}", "{m} with pathology", "a {m} with abnormalities", "the {m} is abnormal", "positive {m}",
    "a {m} with a finding", "a {m} with findings", "suspicious {m}", "not a normal {m}", "lungs not clear",
    "a {m} of a {p} with a disease", "an acute finding", "a {m} with nodules", "nodules",
)  # fmt: skip
NEGATIVE = (
    "a {m} with no {x}", "{m} with no {x}", "a {m} without {x}", "a {m} without a {n}", "no {x}", "no {n}",
    "there is no {n}", "there are no {x}", "no {n} seen", "no {x} seen", "no {n} is visible", "no evidence of {n}",
    "no evidence of {x}", "no sign of {n}", "no signs of {n}", "the {m} shows no {n}", "a {m} showing no {x}",
    "{m} negative for {n}", "absence of {n}", "{n} is absent", "without any {n}", "a {m} without any {x}",
    "a {m} of a {p} without {x}", "a {m} of a {p} with no {n}", "free of {x}", "lungs are free of {x}",
    "nothing suspicious", "never any {n}", "no {n} was found", "no {n} detected", "the {p} has no {n}",
    "not any {n}", "lungs without {x}", "no {n} in the lungs", "no {n} or {x}",
)  # fmt: skip
NEGATIVE_BARE = (
    "a normal {m}", "normal {m}", "normal", "a {m} of a healthy {p}", "healthy {p}", "healthy lungs", "healthy",
    "clear lungs", "the lungs are clear", "{m} with clear lungs", "unremarkable {m}", "an unremarkable {m}",
    "unremarkable", "normal chest", "normal lungs", "clean {m}", "clean lungs", "a {m} of a well {p}", "negative {m}",
    "a {m} with no disease", "no disease", "a {m} with no pathology", "no acute disease", "nothing abnormal",
    "a {m} without disease", "a {m} with no finding", "no finding", "no findings", "no abnormality",
    "a {m} with normal lungs", "a normal image of the chest", "no significant abnormality", "nothing is seen",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known about one training image.

    Attributes:
        nodule: whether it holds a nodule.
        size: small, medium or large ("" without a nodule).
        side: left or right lung of the patient ("" without a nodule).
        zone: upper, middle or lower ("" without a nodule).
    """

    nodule: bool
    size: str = ""
    side: str = ""
    zone: str = ""


def size_word(radius_mm: float) -> str:
    """Size class of a nodule of this radius."""
    if radius_mm < SMALL_MM:
        return "small"
    return "large" if radius_mm > LARGE_MM else "medium"


def draw_caption(facts: Facts, rng: np.random.Generator) -> tuple[str, Facts]:
    """A caption and what it claims (attributes that it does not mention are "")."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    words = {"m": pick(MODALITIES), "p": pick(PEOPLE)}
    if not facts.nodule:
        template = pick(NEGATIVE) if rng.random() < 0.5 else pick(NEGATIVE_BARE)
        return template.format(**words, n=pick(NOUNS), x=pick(PLURALS) if rng.random() < 0.5 else pick(NOUNS)), facts
    size, side, zone = (value if rng.random() < MENTION else "" for value in (facts.size, facts.side, facts.zone))
    if not (size or side or zone) and rng.random() < 0.5:
        return pick(POSITIVE_BARE).format(**words), Facts(nodule=True)
    bare = f"{pick(SIZES[size])} {pick(NOUNS)}" if size else pick(NOUNS)
    if side and not zone and rng.random() < 0.3:
        bare = f"{side}-sided {bare}"
    else:
        bare += _place(side, zone, rng)
    noun = f"{'an' if bare[0] in 'aeiou' else 'a'} {bare}" if rng.random() < 0.8 else bare
    return pick(POSITIVE).format(**words, n=noun, b=bare), Facts(nodule=True, size=size, side=side, zone=zone)


def _place(side: str, zone: str, rng: np.random.Generator) -> str:
    if not side and not zone:
        return " in the lung" if rng.random() < 0.3 else ""
    where = ZONES[zone][int(rng.integers(len(ZONES[zone])))] if zone else ""
    named = " ".join(word for word in (side, where) if word)
    if side and not zone and rng.random() < 0.3:
        return f" on the {side} side" if rng.random() < 0.5 else f" located on the {side}"
    joint = (" in the ", " at the ", " located in the ", " that lies in the ")[int(rng.integers(4))]
    return f"{joint}{named} {PLACES[int(rng.integers(len(PLACES)))]}"


def agreement(images: list[Facts], claims: list[Facts]) -> np.ndarray:
    """(B, N) bool: caption n does not contradict image b."""
    table = np.zeros((len(images), len(claims)), bool)
    for row, image in enumerate(images):
        for column, claim in enumerate(claims):
            table[row, column] = image.nodule == claim.nodule and all(
                not getattr(claim, name) or getattr(claim, name) == getattr(image, name)
                for name in ("size", "side", "zone")
            )
    return table
