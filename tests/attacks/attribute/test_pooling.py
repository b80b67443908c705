import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from reticent.attacks.attribute.pooling import pooled, singles


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(2, 9))
def test_groups_hold_different_records_of_one_user_and_use_every_record(
    users: list[int], requests: int
) -> None:
    owner = np.array(users)
    groups = pooled(owner, requests, seed=0)
    sizes = np.bincount(owner)
    assert groups.left_out == int(((sizes > 0) & (sizes < requests)).sum())
    for row in groups.members:
        assert len(set(row.tolist())) == requests
        assert len(set(owner[row].tolist())) == 1
    eligible = np.flatnonzero(sizes[owner] >= requests)
    assert set(groups.members.reshape(-1).tolist()) == set(eligible.tolist())


def test_groups_follow_the_seed() -> None:
    users = np.repeat(np.arange(4), 20)
    first, again, other = (pooled(users, 8, seed=seed).members for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pooling_adds_log_posteriors_and_removes_the_surplus_priors() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 3))
    single = scores - logsumexp(scores, axis=1, keepdims=True)
    groups = pooled(np.zeros(6, dtype=np.int64), 3, seed=0)
    got = groups.pool(single)
    # Bayes' rule for three independent records under a uniform prior, written out.
    product = np.exp(single)[groups.members].prod(axis=1) / (1 / 3) ** 2
    expected = product / product.sum(axis=1, keepdims=True)
    assert np.allclose(np.exp(got - logsumexp(got, axis=1, keepdims=True)), expected)


@pytest.mark.parametrize("count", [1, 5])
def test_one_request_is_the_record_itself(count: int) -> None:
    assert np.array_equal(singles(count).members[:, 0], np.arange(count))
