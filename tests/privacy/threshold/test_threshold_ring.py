"""Exact ring arithmetic, parameters from the table, and draws that follow their law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reticent.errors import ConfigError, UnsupportedError
from reticent.privacy.threshold.parameters import MOST_BITS, Parameters, _is_prime, choose
from reticent.privacy.threshold.ring import Ring
from reticent.privacy.threshold.sampling import common, errors, smudging, ternary

# 1 modulo 64, so that a small ring of degree 32 exists; all below 2**30.
SMALL = Ring(32, (1073741441, 1073738753))


def negacyclic(left: list[int], right: list[int], modulus: int) -> list[int]:
    """The product modulo X^n + 1, term by term."""
    n = len(left)
    made = [0] * n
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            sign = 1 if i + j < n else -1
            made[(i + j) % n] = (made[(i + j) % n] + sign * a * b) % modulus
    return made


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_products_equal_the_schoolbooks(seed):
    rng = np.random.default_rng(seed)
    left, right = ([int(v) for v in rng.integers(0, 2**62, size=32)] for _ in range(2))
    a, b = (
        SMALL.transform(SMALL.residues_of_large(np.array(v, dtype=object))) for v in (left, right)
    )
    got = SMALL.lift(SMALL.invert(SMALL.multiply(a, b)))
    wanted = negacyclic(left, right, SMALL.modulus)
    assert [int(v) % SMALL.modulus for v in got] == wanted


@pytest.mark.parametrize("degree", [4096, 8192])
def test_a_full_sized_ring_multiplies_sparse_polynomials_exactly(degree):
    parameters = choose(holders=40, contributors=40, largest=9999, openings=1)
    ring = Ring(degree, Parameters(**{**vars_of(parameters), "degree": 8192}).primes)
    rng = np.random.default_rng(1)
    a = rng.integers(-(2**40), 2**40, size=degree)
    b = np.zeros(degree, dtype=np.int64)
    b[[0, 5, degree - 1]] = [3, -2, 7]
    product = ring.multiply(ring.transform(ring.residues(a)), ring.transform(ring.residues(b)))
    wanted = 3 * a - 2 * turned(a, 5) + 7 * turned(a, degree - 1)
    assert (ring.lift(ring.invert(product)) == wanted.astype(object)).all()


def turned(a: np.ndarray, by: int) -> np.ndarray:
    """a X^by modulo X^n + 1."""
    made = np.roll(a, by)
    made[:by] *= -1
    return made


def vars_of(parameters: Parameters) -> dict[str, int]:
    names = ("holders", "contributors", "largest", "openings", "degree", "prime_count")
    return {name: getattr(parameters, name) for name in names}


@given(values=st.lists(st.integers(-(2**57), 2**57), min_size=32, max_size=32))
@settings(max_examples=20, deadline=None)
def test_transform_and_chinese_remainders_come_back(values):
    x = SMALL.residues_of_large(np.array(values, dtype=object))
    assert list(SMALL.lift(SMALL.invert(SMALL.transform(x)))) == values


def test_primes_are_primes():
    sieve = np.ones(20000, dtype=bool)
    sieve[:2] = False
    for n in range(2, 142):
        if sieve[n]:
            sieve[n * n :: n] = False
    assert [n for n in range(11, 20000) if _is_prime(n)] == [
        n for n in range(11, 20000) if sieve[n]
    ]


@pytest.mark.parametrize(
    ("holders", "contributors", "largest", "openings"),
    [(2, 2, 10, 1), (3, 10, 300, 5), (50, 50, 10**4, 10), (250, 250, 10**5, 1000)],
)
def test_chosen_parameters_stay_inside_the_128_bit_table_and_have_room(
    holders, contributors, largest, openings
):
    made = choose(holders=holders, contributors=contributors, largest=largest, openings=openings)
    assert made.modulus.bit_length() <= {4096: 109, 8192: 218, 16384: 438}[made.degree]
    assert len(set(made.primes)) == made.prime_count
    assert all(p % (2 * made.degree) == 1 and p < 2**30 for p in made.primes)
    # The smudging hides all of the ciphertext's noise, over all openings, to 2**-40.
    distance = openings * made.degree * made.ciphertext_noise / 2.0 ** (made.smudging_bits + 1)
    assert 2.0**-42 < distance <= 2.0**-40
    assert made.noise_bound < made.modulus / (2 * made.plain_modulus)


def test_parameters_beyond_the_table_or_without_room_are_refused():
    usual = vars_of(choose(holders=3, contributors=3, largest=100, openings=1))
    with pytest.raises(ConfigError, match=r"at most 109 bits at 128 bits of security"):
        Parameters(**{**usual, "prime_count": 4})
    with pytest.raises(ConfigError, match=r"ring degree among \[4096"):
        Parameters(**{**usual, "degree": 2048})
    with pytest.raises(ConfigError, match=r"room for \d+ bits of noise"):
        Parameters(**{**usual, "prime_count": 2})
    with pytest.raises(ConfigError, match=r"holders >= 2"):
        choose(holders=1, contributors=3, largest=100, openings=1)
    with pytest.raises(UnsupportedError, match="no ring in the table"):
        choose(holders=3, contributors=3, largest=2**400, openings=1)
    assert MOST_BITS == {4096: 109, 8192: 218, 16384: 438}


def chi_square(drawn: np.ndarray, law: dict[int, float]) -> float:
    values = sorted(law)
    seen = np.array([(drawn == v).sum() for v in values])
    return float(stats.chisquare(seen, np.array([law[v] for v in values]) * seen.sum()).pvalue)


def test_secrets_and_errors_follow_their_laws():
    # False alarms: 1e-6 per test.
    assert chi_square(ternary(30000), dict.fromkeys((-1, 0, 1), 1 / 3)) > 1e-6
    drawn = errors(400000)
    assert np.abs(drawn).max() <= 21
    inner = drawn[np.abs(drawn) <= 9]
    for wrong, passes in ((0, True), (2, False)):
        half = stats.binom(42 - wrong, 0.5)
        law = {x: half.pmf(x + 21 - wrong // 2) for x in range(-9, 10)}
        total = sum(law.values())
        p = chi_square(inner, {x: v / total for x, v in law.items()})
        assert (p > 1e-6) is passes, p


@pytest.mark.parametrize("bits", [29, 44, 59, 60])
def test_smudging_is_uniform_on_its_range(bits):
    ring = Ring(4096, choose(holders=3, contributors=3, largest=10, openings=1).primes)
    drawn = np.concatenate([ring.lift(smudging(ring, bits)) for _ in range(3)])
    assert all(-(2**bits) <= v < 2**bits for v in drawn)
    scaled = np.array([float(v) / 2.0**bits for v in drawn])
    assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > 1e-6
    assert stats.kstest(scaled * 0.95, stats.uniform(-1, 2).cdf).pvalue < 1e-3
    assert chi_square(np.array([int(v) % 2 for v in drawn]), {0: 0.5, 1: 0.5}) > 1e-6


def test_the_common_polynomial_is_uniform_public_and_its_sessions_own():
    ring = Ring(4096, choose(holders=3, contributors=3, largest=10, openings=1).primes)
    first, again, other = common(ring, b"a"), common(ring, b"a"), common(ring, b"b")
    assert (first == again).all()
    assert (first == other).mean() < 0.01
    for row, prime in zip(first, ring.primes, strict=True):
        assert stats.kstest(row / prime, stats.uniform.cdf).pvalue > 1e-6
