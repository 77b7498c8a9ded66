"""Names of the kinds of prompts."""

from __future__ import annotations

import re

import pytest

from fairmedfm_monai.catalog.prompt_kinds import SIMULATED_BASES, PromptKind, base_of, parse_kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("box", {"base": "box"}),
        ("box-j10", {"base": "box", "jitter": 10}),
        ("box-j0", {"base": "box", "jitter": 0}),
        ("mask-j100-cc", {"base": "mask", "jitter": 100, "components": True}),
        ("center-k5", {"base": "center", "count": 1, "clicks": 5}),
        ("point-d50", {"base": "point", "count": 1, "depth": 50}),
        ("point-d0", {"base": "point", "count": 1, "depth": 0}),
        ("points", {"base": "points", "count": 5}),
        ("points-n3-neg2", {"base": "points", "count": 3, "negatives": 2}),
        ("points-neg2-spread-n3", {"base": "points", "count": 3, "negatives": 2, "spread": True}),
        ("text-k20", {"base": "text", "clicks": 20}),
        ("user", {"base": "user"}),
    ],
)
def test_names_are_read(name: str, expected: dict[str, object]) -> None:
    assert parse_kind(name) == PromptKind(name=name, **expected)
    assert base_of(name) == expected["base"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("boxes", "'boxes': unknown base 'boxes'"),
        ("", "unknown base"),
        ("box-", "unknown option ''"),
        ("box-q3", "unknown option 'q3'"),
        ("box-j", "unknown option 'j'"),
        ("box-j5.5", "unknown option 'j5.5'"),
        ("box-j05", "unknown option 'j05'"),
        ("box-J5", "unknown option 'J5'"),
        ("box-cc2", "unknown option 'cc2'"),
        ("box--j5", "unknown option ''"),
        ("box-j101", "'j101' must be within 0..100"),
        ("points-n0", "'n0' must be within 1..50"),
        ("center-k21", "'k21' must be within 1..20"),
        ("point-d101", "'d101' must be within 0..100"),
        ("points-neg51", "'neg51' must be within 1..50"),
        ("point-j5", "point takes no option 'j5'"),
        ("box-n3", "box takes no option 'n3'"),
        ("center-d50", "center takes no option 'd50'"),
        ("text-cc", "text takes no option 'cc'"),
        ("user-k3", "user takes no option 'k3'"),
        ("box-j5-j6", "option 'j' is given twice"),
    ],
)
def test_errors_say_what_is_wrong_and_offer_the_grammar(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parse_kind(name)
    assert all(word in str(error.value) for word in (*SIMULATED_BASES, "jN", "nN", "negN", "dN", "spread", "cc", "kN"))


def test_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt kind 3: unknown base"):
        parse_kind(3)  # type: ignore[arg-type]


def test_what_shares_its_first_draw() -> None:
    """Strengths of a jitter, clicks and background points are compared on the same draw; all else is drawn apart."""
    for same in (("box-j5", "box-j40-k3", "box-j5-cc"), ("point", "point-neg3", "point-k2"), ("points", "points-n5")):
        assert len({parse_kind(name).draw_key for name in same}) == 1
    apart = (
        "box",
        "box-j5",
        "center",
        "point",
        "points",
        "points-n3",
        "points-spread",
        "point-d5",
        "point-d6",
        "mask-j5",
    )
    assert len({parse_kind(name).draw_key for name in apart}) == len(apart)
