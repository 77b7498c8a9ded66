from __future__ import annotations

import itertools

import pytest

from fairmedfm_monai.data.demo.seeds import STREAMS, generator


def test_no_two_seeds_share_their_numbers() -> None:
    seeds = [0, 1, (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0), (1, 0, 0)]
    drawn = {(stream, seed): generator(stream, seed).random() for stream, seed in itertools.product(STREAMS, seeds)}
    assert len(set(drawn.values())) == len(drawn)


def test_an_int_is_a_tuple_of_one() -> None:
    assert generator("film", 7).random() == generator("film", (7,)).random()


@pytest.mark.parametrize(("stream", "seed"), [("films", 0), ("film", -1), ("film", (1, 2, 3, 4)), ("film", ())])
def test_bad_seeds_are_refused(stream: str, seed: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a stream"):
        generator(stream, seed)
