"""The sharp test: its level by enumeration of all counts, its power beside the rectangle."""

import numpy as np
import pytest
from scipy import stats

from reticent.audit.epsilon import Confusion, max_certifiable_epsilon
from reticent.audit.region_test import Form, sharp_epsilon_lower_bound, stronger_form
from reticent.errors import ConfigError

FORMS: tuple[Form, ...] = ("direct", "mirrored", "both")


def counted(tp: int, members: int, fp: int, others: int) -> Confusion:
    return Confusion(tp=tp, fn=members - tp, fp=fp, tn=others - fp)


@pytest.mark.parametrize("form", FORMS)
def test_no_pair_of_rates_within_the_region_is_flagged_more_often_than_said(form: Form) -> None:
    """Exact: every count of 9 + 12 records, every border point of a grid, confidence 80 %."""
    members, others, delta, confidence = 9, 12, 0.02, 0.8
    bounds = np.array(
        [
            [
                sharp_epsilon_lower_bound(
                    counted(tp, members, fp, others),
                    delta=delta,
                    confidence=confidence,
                    form=form,
                )
                for fp in range(others + 1)
            ]
            for tp in range(members + 1)
        ]
    )
    assert bounds.max() > 1.5
    worst = 0.0
    for epsilon in (0.0, 0.3, 1.0):
        for fpr in np.linspace(0, 1, 41):
            direct = np.exp(epsilon) * fpr + delta
            mirrored = 1 - np.exp(-epsilon) * (1 - fpr - delta)
            tpr = min(1.0, direct, mirrored)
            chances = np.outer(
                stats.binom.pmf(np.arange(members + 1), members, tpr),
                stats.binom.pmf(np.arange(others + 1), others, fpr),
            )
            worst = max(worst, float(chances[bounds > epsilon].sum()))
    assert 0.05 < worst <= 1 - confidence


@pytest.mark.parametrize(
    ("tp", "fp", "size", "form"),
    [
        (149, 2, 2000, "direct"),
        (100, 0, 100, "direct"),
        (300, 200, 500, "direct"),
        (1998, 1851, 2000, "mirrored"),
    ],
)
def test_it_shows_more_than_the_rectangle(tp: int, fp: int, size: int, form: Form) -> None:
    counts = counted(tp, size, fp, size)
    rectangle = counts.epsilon_lower_bound(delta=1e-5)
    both = sharp_epsilon_lower_bound(counts, delta=1e-5)
    chosen = sharp_epsilon_lower_bound(counts, delta=1e-5, form=form)
    assert rectangle < both < chosen
    point = np.log(tp / fp) if form == "direct" and fp else np.inf
    assert chosen < point


def test_an_attack_without_errors_is_the_known_power() -> None:
    """One count is forced, so the one-sided exact limit at full error is all there is to gain."""
    found = sharp_epsilon_lower_bound(counted(1000, 1000, 0, 1000), form="direct")
    assert max_certifiable_epsilon(1000, 1000) < found
    assert found == pytest.approx(-np.log(-np.expm1(np.log(0.05) / 1000)), abs=0.03)


def test_nothing_is_shown_where_there_is_nothing() -> None:
    for tp, fp in ((50, 50), (30, 60), (0, 0), (100, 100), (0, 100)):
        assert sharp_epsilon_lower_bound(counted(tp, 100, fp, 100)) == 0.0


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="delta"):
        sharp_epsilon_lower_bound(counted(1, 2, 1, 2), delta=1.0)


@pytest.mark.parametrize("delta", [0.0, 1e-5])
@pytest.mark.parametrize(("tpr", "fpr"), [(0.1, 0.001), (0.999, 0.9), (0.5, 0.5), (0.3, 0.02)])
def test_the_stronger_form_is_the_one_with_the_greater_epsilon(
    tpr: float, fpr: float, delta: float
) -> None:
    direct = np.log((tpr - delta) / fpr)
    mirrored = np.log((1 - fpr - delta) / (1 - tpr))
    wanted = "direct" if direct >= mirrored else "mirrored"
    assert stronger_form(tpr, fpr, delta=delta) == wanted
