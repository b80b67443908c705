"""Noisy votes: the noise's law, its accounting, and counts that match the plaintext's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reticent.errors import ConfigError, InputError
from reticent.privacy.threshold import gaussian
from reticent.privacy.threshold.gaussian import DiscreteGaussian, summed_concentration
from reticent.privacy.threshold.scheme import Holder, JointKey, Session, joint_key, open_sum
from reticent.privacy.threshold.votes import VotePlan, counted, encrypt_votes


def law(sigma: float, reach: int) -> np.ndarray:
    """Probabilities of -reach .. reach."""
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


@pytest.mark.parametrize("sigma", [0.5, 2.53, 30.0])
def test_draws_follow_the_discrete_gaussian_and_no_other(sigma):
    made = DiscreteGaussian(sigma=sigma)
    drawn = made.draw(60000)
    reach = max(1, math.ceil(2.5 * sigma))
    inner = drawn[np.abs(drawn) <= reach] + reach
    seen = np.bincount(inner, minlength=2 * reach + 1)
    for factor, passes in ((1.0, True), (0.9, False), (1.1, False)):
        p = law(sigma * factor, reach)
        assert bool(stats.chisquare(seen, p * seen.sum()).pvalue > 1e-6) is passes
    assert np.abs(drawn).max() <= made.largest
    assert made.total_variation < 2.0**-100


def test_the_table_holds_the_cumulative_law():
    table, high = gaussian._table(3.0, 41)
    wanted = law(3.0, 41).cumsum()[:-1]
    np.testing.assert_allclose(
        [entry / 2.0**128 for entry in table], wanted, rtol=1e-12, atol=1e-36
    )
    assert [int(h) for h in high] == [entry >> 64 for entry in table]
    assert list(table) == sorted(table)


@pytest.mark.parametrize("low", [0, 2**64 - 1])
def test_where_the_upper_half_of_the_bits_ties_the_lower_half_decides(monkeypatch, low):
    made = DiscreteGaussian(sigma=3.0)
    table, high = gaussian._table(3.0, made.largest)
    place = made.largest
    words = iter([int(high[place]).to_bytes(8, "little"), low.to_bytes(8, "little")])
    monkeypatch.setattr(gaussian.os, "urandom", lambda count: next(words))
    # P(X <= 0) 2**128 is table[place]: at or above it, the draw is 1 or more.
    wanted = 1 if int(high[place]) * 2**64 + low >= table[place] else 0
    assert made.draw(1)[0] == wanted
    assert wanted == (low != 0)


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("shares", [1, 2, 5])
def test_the_bound_on_a_sum_covers_the_exact_renyi_divergence(sigma, shares):
    reach = 60
    one = law(sigma, reach)
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    for shift in (1, 2):
        rho = summed_concentration(sigma=sigma, shares=shares, l2=float(shift), dimensions=1)
        gaussian_rho = shift**2 / (2 * shares * sigma**2)
        assert rho >= gaussian_rho * (1 - 1e-12)
        p, q = total[shift:], total[:-shift]
        kept = (p > 1e-280) & (q > 1e-280)
        for order in (1.5, 2.0, 4.0, 8.0):
            terms = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
            exact = np.log(np.exp(terms - terms.max()).sum()) + terms.max()
            assert exact / (order - 1) <= order * rho * (1 + 1e-9)
            if sigma >= 1.0:
                assert exact / (order - 1) == pytest.approx(order * gaussian_rho, rel=1e-3)


def test_many_shares_cost_what_one_gaussian_costs():
    plan = VotePlan(teachers=250, holders=3, questions=1, classes=10, sigma=40.0)
    assert plan.noise.sigma == pytest.approx(40 / math.sqrt(250))
    assert plan.rho == pytest.approx(2 / (2 * 40**2), rel=1e-9)
    more = VotePlan(teachers=250, holders=3, questions=100, classes=10, sigma=40.0, rounds=3)
    assert more.rho == pytest.approx(300 * 2 / (2 * 40**2), rel=1e-9)


def test_epsilon_is_that_of_a_gaussian_from_another_accountant():
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    plan = VotePlan(teachers=50, holders=3, questions=100, classes=10, sigma=40.0)
    accountant = RdpAccountant()
    accountant.compose(dp_event.GaussianDpEvent(40 / math.sqrt(2)), 100)
    assert plan.epsilon(1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert plan.epsilon(1e-7) > plan.epsilon(1e-5)
    with pytest.raises(ConfigError, match="far above the draws' error"):
        plan.epsilon(1e-30)


def test_colluding_teachers_take_nothing_off_the_stated_noise():
    plan = VotePlan(teachers=10, holders=3, questions=1, classes=2, sigma=6.0, colluding=4)
    assert plan.honest * plan.noise.sigma**2 == pytest.approx(36)
    assert plan.rho == pytest.approx(2 / (2 * 36))


def keyed(plan: VotePlan, name: str) -> tuple[Session, dict[str, Holder], JointKey]:
    session = Session(parameters=plan.parameters, name=name)
    holders = {f"h{i}": Holder(session) for i in range(plan.holders)}
    parts = {n: h.public for n, h in holders.items()}
    return session, holders, joint_key(session, parts, {n: p.commitment for n, p in parts.items()})


def test_counts_are_the_votes_plus_noise_of_the_stated_size():
    plan = VotePlan(teachers=20, holders=3, questions=400, classes=10, sigma=5.0)
    session, holders, key = keyed(plan, "counts")
    votes = np.random.default_rng(0).integers(0, 10, size=(20, 400))
    votes[:, 7] = 3
    sent = {f"t{i}": encrypt_votes(plan, key, row) for i, row in enumerate(votes)}
    shares = {n: h.share(sent, mine=None) for n, h in holders.items()}
    made = counted(plan, open_sum(sent, shares))
    clean = np.stack([(votes == c).sum(axis=0) for c in range(10)], axis=1)
    noise = (made.counts - clean).ravel()
    # 4,000 draws: the two-sided limits are those of chi-square at one in a million.
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], len(noise)) * 25 / len(noise)
    assert low < (noise.astype(float) ** 2).mean() < high
    assert (
        stats.kstest(
            noise + np.random.default_rng(1).uniform(-0.5, 0.5, 4000), "norm", (0, 5)
        ).pvalue
        > 1e-6
    )
    assert made.winners()[7] == 3
    assert "unaudited" in made.notice
    assert session.parameters == plan.parameters


def test_guarantees_say_what_protects_what():
    plan = VotePlan(teachers=50, holders=50, questions=10, classes=10, sigma=40.0)
    counts, secrecy = plan.guarantees(1e-5)
    assert counts.strength.epsilon == plan.epsilon(1e-5)
    assert counts.strength.unit == "user"
    assert secrecy.strength.bits == 128
    assert "unaudited" in secrecy.mechanism
    assert type(secrecy).from_json(secrecy.to_json()) == secrecy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colluding": 5}, "at least one honest teacher"),
        ({"sigma": 0.5}, "0.5 <= sigma"),
        ({"questions": 5000}, "fewer questions per round"),
        ({"classes": 1}, "classes >= 2"),
    ],
)
def test_plans_that_cannot_hold_are_refused(changes, words):
    usual = {"teachers": 5, "holders": 3, "questions": 4, "classes": 3, "sigma": 4.0}
    with pytest.raises(ConfigError, match=words):
        VotePlan(**{**usual, **changes})


def test_votes_that_do_not_fit_are_refused():
    plan = VotePlan(teachers=5, holders=3, questions=2, classes=3, sigma=4.0)
    key = keyed(plan, "refused")[2]
    for votes in ([0], [0, 3], [-1, 0], [0.0, 1.0]):
        with pytest.raises(InputError, match="2 votes from 0 to 2"):
            encrypt_votes(plan, key, votes)
    other = keyed(VotePlan(teachers=6, holders=3, questions=2, classes=3, sigma=4.0), "other")[2]
    with pytest.raises(ConfigError, match="a key for this plan's parameters"):
        encrypt_votes(plan, other, [0, 1])
