"""Each check of a mechanism is quiet on the ideal one and rejects one that lacks the property."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from white_box_ideal import RATE, declared, ideal

from reticent.audit.white_box_canaries import Route, Sight, expected_moves
from reticent.audit.white_box_checks import checks, sampling

RUNS, CUT = 250, 0.05


def test_on_the_ideal_mechanism_no_check_rejects_more_often_than_it_says() -> None:
    given = declared()
    values = np.array([[c.p_value for c in checks(ideal(s), given)] for s in range(RUNS)])
    names = [c.name for c in checks(ideal(0), given)]
    rejected = (values <= CUT).sum(axis=0)
    for name, count in zip(names, rejected, strict=True):
        assert stats.binom.sf(count - 1, RUNS, CUT) > 1e-4, (name, count)
    # Exact tests of continuous statistics use their whole error.
    uniform = [names.index(n) for n in ("noise level", "additive", "nothing but the draw")]
    for index in uniform:
        assert stats.kstest(values[:, index], "uniform").pvalue > 1e-4, names[index]


def changed(sight: Sight, **parts: np.ndarray) -> Sight:
    return dataclasses.replace(sight, **parts)


def quieter(sight: Sight) -> Sight:
    return changed(sight, spare=0.94 * sight.spare)


def one_louder_step(sight: Sight) -> Sight:
    scale = np.ones((len(sight.spare), 1))
    scale[3] = 1.5
    return changed(sight, spare=scale * sight.spare)


def repeated(sight: Sight) -> Sight:
    spare = sight.spare.copy()
    spare[1::2] = spare[0::2]
    return changed(sight, spare=spare)


def repeated_along(sight: Sight) -> Sight:
    spare = sight.spare.copy()
    spare[:, 1::2] = spare[:, 0::2]
    return changed(sight, spare=spare)


def laplacian(sight: Sight) -> Sight:
    rng = np.random.default_rng(0)
    return changed(sight, spare=rng.laplace(0, 1.2 / np.sqrt(2), sight.spare.shape))


def unequal(sight: Sight) -> Sight:
    """Contributions that fall with the batch's size, right on average."""
    sizes = sight.draws[:, 1:].sum(axis=1)
    factor = (sizes.mean() / sizes)[:, None] ** 3
    return changed(sight, scores=sight.scores + np.where(sight.drawn, factor - 1, 0.0))


def stale(sight: Sight) -> Sight:
    """A third of the step before is still there."""
    late = np.roll(sight.drawn, 1, axis=0) * 0.33
    return changed(sight, scores=sight.scores + late)


def everybody(sight: Sight) -> Sight:
    """A tenth of every record is in every step."""
    return changed(sight, scores=sight.scores + 0.1 * ~sight.drawn)


def longer(sight: Sight) -> Sight:
    own = sight.drawn & (sight.routes == Route.SHARED)
    return changed(sight, scores=sight.scores + 0.4 * own)


def shorter(sight: Sight) -> Sight:
    own = sight.drawn & (sight.routes == Route.BIAS)
    return changed(sight, scores=sight.scores - 0.4 * own)


def redrawn(sight: Sight, draws: np.ndarray) -> Sight:
    return changed(sight, draws=draws)


def more_often(sight: Sight) -> Sight:
    rng = np.random.default_rng(1)
    return redrawn(sight, rng.random(sight.draws.shape) < 1.15 * RATE)


def cut_to_size(sight: Sight) -> Sight:
    rng = np.random.default_rng(2)
    draws = np.zeros_like(sight.draws)
    size = round(RATE * (draws.shape[1] - 1))
    for row in draws:
        row[1 + rng.permutation(len(row) - 1)[:size]] = True
    return redrawn(sight, draws)


def dealt(sight: Sight) -> Sight:
    rng = np.random.default_rng(3)
    draws = np.zeros_like(sight.draws)
    parts = round(1 / RATE)
    for start in range(0, len(draws), parts):
        owner = rng.integers(parts, size=draws.shape[1])
        for step in range(start, min(len(draws), start + parts)):
            draws[step] = owner == step - start
    return redrawn(sight, draws)


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (quieter, "noise level"),
        (one_louder_step, "noise steady"),
        (repeated, "noise fresh"),
        (repeated_along, "noise fresh"),
        (laplacian, "noise Gaussian"),
        (unequal, "additive"),
        (everybody, "nothing but the draw"),
        (stale, "nothing left over"),
        (longer, "contribution by shared"),
        (shorter, "contribution by bias"),
        (more_often, "sampling rate"),
        (cut_to_size, "batch sizes"),
        (dealt, "repeats"),
    ],
)
def test_what_lacks_a_property_is_caught_by_its_check(
    change: Callable[[Sight], Sight], caught: str
) -> None:
    sound = ideal(11, steps=60, canaries=400, others=200, spare=1000)
    given = declared(steps=60)
    before = {c.name: c.p_value for c in checks(sound, given)}
    after = {c.name: c.p_value for c in checks(change(sound), given)}
    assert before[caught] > 1e-3
    assert after[caught] < 1e-6


def test_sampling_p_values_by_hand() -> None:
    """Four records, q = 1/2: sizes 1 to 3 have 14 chances in 16, repeats one in four a pair."""
    nobody = np.zeros((2, 4), dtype=bool)
    found = {check.name: check.p_value for check in sampling(nobody, 0.5)}
    assert found["sampling rate"] == pytest.approx(2 * 0.5**8)
    assert found["batch sizes"] == pytest.approx(2 * (1 / 8) ** 2)
    assert found["repeats"] == pytest.approx(2 * 0.75**4)
    assert [check.name for check in sampling(~nobody, 1.0)] == ["sampling rate"]


def test_moves_expected_of_layers_clipped_one_by_one() -> None:
    """6 tensors, each clipped to C / sqrt(6): one of them moves by that, four by twice that."""
    sight = ideal(0, canaries=10)
    expected = expected_moves(sight, declared(per_layer=True))
    np.testing.assert_allclose(expected[:5], [6**-0.5] * 4 + [2 * 6**-0.5])
