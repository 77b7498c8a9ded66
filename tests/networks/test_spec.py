"""Input specification."""

from __future__ import annotations

import pytest

from fairmedfm_monai.networks.spec import InputSpec


def test_lists_of_a_config_become_tuples_so_that_specs_compare_and_hash() -> None:
    spec = InputSpec(size=8, mean=[0, 1, 2], std=[1, 1, 1])
    assert spec == InputSpec(size=8, mean=(0.0, 1.0, 2.0), std=(1, 1, 1))
    assert hash(spec) == hash(InputSpec(size=8, mean=(0, 1, 2), std=(1, 1, 1)))


@pytest.mark.parametrize(
    "wrong",
    [{"mean": [0.0]}, {"channels": 1}, {"std": [1, 0, 1]}, {"size": 0}, {"max_value": 0}],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"`mean`|`size`"):
        InputSpec(**{"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1], **wrong})
