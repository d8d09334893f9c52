"""The rules behind the verdicts, against exact arithmetic, SciPy and simulation."""

from fractions import Fraction
from itertools import combinations
from math import comb, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, norm, t, ttest_1samp

from dlstudy import stats

DRAWS = 40_000


def tail(count, n):
    """P(Binomial(n, 1/2) >= count) as a rational number, from Pascal's triangle."""
    return Fraction(sum(comb(n, k) for k in range(count, n + 1)), 2**n)


def standard_error(p, draws=DRAWS):
    return np.sqrt(p * (1 - p) / draws)


def verdicts(x, threshold, direction, level=stats.LEVEL):
    """`sign_verdict` of each row of x[draws, n]."""
    beyond, against = stats.sign_counts(x, threshold, direction)
    pairs, which = np.unique(np.stack([beyond, against]), axis=1, return_inverse=True)
    of_pair = [stats.sign_verdict(b, a, x.shape[1], direction, level) for b, a in pairs.T.tolist()]
    return np.array(of_pair)[which.ravel()]


# --- counts and tails ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "needed", "ways"),
    [
        (7, 7, 1),
        (20, 16, 4845 + 1140 + 190 + 20 + 1),
        (32, 24, sum(comb(32, k) for k in range(24, 33))),
    ],
)
def test_needed_count_of_worked_examples(n, needed, ways):
    assert stats.needed_count(n) == needed
    assert Fraction(ways, 2**n) <= Fraction(1, 100) < tail(needed - 1, n)
    assert stats.sign_p(needed, n) == ways / 2**n


@pytest.mark.parametrize(("level", "allowed"), [(0.99, Fraction(1, 100)), (0.9, Fraction(1, 10))])
def test_needed_count_is_the_smallest_with_its_tail(level, allowed):
    for n in range(80):
        needed = stats.needed_count(n, level)
        if needed is None:
            assert tail(n, n) > allowed
        else:
            assert tail(needed, n) <= allowed < tail(needed - 1, n)


def test_needed_count_takes_a_tail_that_meets_the_level_exactly():
    assert stats.needed_count(2, 0.75) == 2  # P(2 of 2) = 1/4
    assert stats.needed_count(1, 0.5) == 1
    assert stats.needed_count(1, Fraction(1, 2)) == 1


def test_fewest_seeds():
    assert stats.needed_count(6) is None
    assert stats.fewest_seeds() == 7
    assert stats.fewest_seeds(0.999) == 10  # 2**-10 < 1/1000 < 2**-9


@pytest.mark.parametrize("level", [0.0, 1.0, -1, 99])
def test_a_level_outside_0_1_is_refused(level):
    with pytest.raises(ValueError, match=f"level is {level}"):
        stats.needed_count(20, level)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="-1"):
        stats.needed_count(-1)


def test_sign_p_against_scipy():
    for n in (1, 7, 20, 33):
        for count in range(n + 1):
            one = binomtest(count, n, alternative="greater").pvalue
            two = binomtest(count, n).pvalue
            assert stats.sign_p(count, n) == pytest.approx(one, rel=1e-12)
            larger = max(count, n - count)
            assert stats.sign_p(larger, n, tries=2) == pytest.approx(two, rel=1e-12)


def test_sign_counts_by_hand():
    x = [-3, -1, 0, 0, 1, 2]
    assert stats.sign_counts(x, 0, "above") == (2, 2)
    assert stats.sign_counts(x, 1, "above") == (1, 4)
    assert stats.sign_counts(x, 1, "below") == (4, 1)
    # Below 2: five; above -2: five. Outside: none strictly above 2, one below -2.
    assert stats.sign_counts(x, 2, "within") == (5, 1)
    with pytest.raises(ValueError, match="sideways"):
        stats.sign_counts(x, 0, "sideways")


def test_sign_counts_of_many_samples_at_once():
    x = np.array([[0, 1, 2], [2, 2, 2], [-1, -1, 5]])
    beyond, against = stats.sign_counts(x, 1, "above")
    assert beyond.tolist() == [1, 3, 1]
    assert against.tolist() == [1, 0, 2]


def test_a_float32_value_ties_with_the_threshold_it_prints_as():
    x = np.full(20, 0.1, np.float32)  # a little more than the float64 0.1
    assert stats.sign_counts(x, 0.1, "above") == (0, 0)
    assert stats.sign_counts(-x, 0.1, "within") == (0, 0)


@pytest.mark.parametrize(
    ("beyond", "against", "n", "verdict"),
    [
        (16, 4, 20, "supported"),
        (15, 5, 20, "inconclusive"),
        (15, 0, 20, "inconclusive"),  # ties are no help
        (4, 16, 20, "refuted"),
        (0, 15, 20, "inconclusive"),
        (24, 8, 32, "supported"),
        (23, 9, 32, "inconclusive"),
        (6, 0, 6, "inconclusive"),
        (7, 0, 7, "supported"),
        (0, 0, 0, "inconclusive"),
    ],
)
def test_sign_verdict(beyond, against, n, verdict):
    assert stats.sign_verdict(beyond, against, n, "above") == verdict


def test_refuting_equivalence_takes_the_two_sided_count():
    assert stats.needed_against(20, "above") == 16
    assert stats.needed_against(20, "within") == 17
    assert 2 * tail(17, 20) <= Fraction(1, 100) < 2 * tail(16, 20)
    assert stats.sign_verdict(4, 16, 20, "within") == "inconclusive"
    assert stats.sign_verdict(3, 17, 20, "within") == "refuted"


# --- interval of the median ------------------------------------------------------------------


def test_median_interval_covers_as_promised_and_is_the_shortest_that_does():
    """The interval of ranks r..n+1-r misses iff fewer than r seeds lie on one side."""
    for n in range(8, 70):
        low, high = stats.median_interval(np.arange(1, n + 1))
        rank = int(low)
        assert high == n + 1 - rank
        missed = 2 * Fraction(sum(comb(n, k) for k in range(rank)), 2**n)
        missed_by_next = 2 * Fraction(sum(comb(n, k) for k in range(rank + 1)), 2**n)
        assert missed <= Fraction(1, 100) < missed_by_next


def test_median_interval_of_20_seeds_in_any_order():
    x = np.random.default_rng(0).permutation(np.arange(1.0, 21.0))
    assert stats.median_interval(x) == (4, 17)


@pytest.mark.parametrize("n", range(1, 8))
def test_fewer_than_8_seeds_do_not_bound_a_median(n):
    assert stats.median_interval(np.zeros(n)) == (-inf, inf)


def test_median_interval_of_8_seeds_is_their_range():
    assert stats.median_interval([5, 3, 8, 1, 9, 2, 7, 4]) == (1, 9)


@pytest.mark.parametrize("x", [[], [[1.0]], [1.0, np.nan], [np.inf]])
def test_intervals_refuse_what_is_no_sample(x):
    for interval in (stats.median_interval, stats.t_interval, stats.bca_interval):
        with pytest.raises(ValueError, match="one dimension"):
            interval(x)


# --- shares ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 20, 32])
@pytest.mark.parametrize("level", [0.99, 0.95])
def test_clopper_pearson_is_a_pair_of_beta_quantiles(n, level):
    miss = (1 - level) / 2
    for k in range(n + 1):
        low, high = stats.share_interval(k, n, level)
        assert low == pytest.approx(beta.ppf(miss, k, n - k + 1) if k else 0, rel=1e-7)
        assert high == pytest.approx(beta.isf(miss, k + 1, n - k) if k < n else 1, rel=1e-7)


def test_share_of_nobody_is_anything():
    assert stats.share_interval(0, 0) == (0, 1)
    assert stats.share_verdict(0, 0, 0.5) == "inconclusive"


@pytest.mark.parametrize("n", [1, 5, 20, 32])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_share_needed_and_p_agree_with_the_interval(n, threshold):
    needed = stats.share_needed(n, threshold)
    for k in range(n + 1):
        supported = stats.share_verdict(k, n, threshold) == "supported"
        assert supported == (needed is not None and k >= needed)
        assert supported == (stats.share_p(k, n, threshold) < 0.005)
        expected = binomtest(k, n, threshold, alternative="greater").pvalue
        assert stats.share_p(k, n, threshold) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [7, 20, 32])
def test_a_share_on_its_threshold_is_called_supported_in_half_a_percent_at_most(n):
    """Exactly, by summing the binomial over the outcomes called supported or refuted."""
    for share in np.linspace(0.05, 0.95, 13):
        called = np.array([stats.share_verdict(k, n, share) for k in range(n + 1)])
        chance = binom.pmf(np.arange(n + 1), n, share)
        assert chance[called == "supported"].sum() <= 0.005
        assert chance[called == "refuted"].sum() <= 0.005


# --- description of the mean -----------------------------------------------------------------


def test_t_interval_against_scipy():
    x = np.random.default_rng(1).normal(3, 2, 20)
    expected = ttest_1samp(x, 0).confidence_interval(0.99)
    np.testing.assert_allclose(stats.t_interval(x), [expected.low, expected.high], rtol=1e-12)


def test_bca_interval_is_repeatable_and_moves_with_shift_and_scale():
    x = np.random.default_rng(2).lognormal(size=20)
    low, high = stats.bca_interval(x)
    assert low < x.mean() < high
    assert (low, high) == stats.bca_interval(x)
    np.testing.assert_allclose(stats.bca_interval(3 * x + 1), [3 * low + 1, 3 * high + 1])
    np.testing.assert_allclose(stats.bca_interval(-x), [-high, -low], rtol=0.05)


def test_bca_and_t_intervals_agree_on_many_normal_numbers():
    x = np.random.default_rng(3).normal(size=2000)
    np.testing.assert_allclose(stats.bca_interval(x), stats.t_interval(x), atol=0.01)


@pytest.mark.parametrize("interval", [stats.t_interval, stats.bca_interval])
def test_degenerate_numbers_give_no_warning(interval):
    assert interval([4.2]) == (-inf, inf)
    x = np.full(20, 0.1)  # its mean is off by a rounding error
    assert interval(x) == (x.mean(), x.mean())
    low, high = interval([1, 1, 1, 1, 1, 1, 1, 9])
    assert low <= 2 <= high
    for x in ([0, 5e-324], [0, 1e308, 1.7e308], [1, 2], [1e8, 1e8 + 1e-8]):
        low, high = interval(x)
        assert low <= high or np.isnan([low, high]).all()


# --- Holm ------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06.
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1, 1]
    assert stats.holm([0.02]) == [0.02]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_holm_is_the_closed_test_of_bonferroni(p):
    """A hypothesis falls once every set holding it is rejected by Bonferroni (Marcus 1976)."""
    everyone = range(len(p))
    sets = [s for r in everyone for s in combinations(everyone, r + 1)]
    closed = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in everyone]
    np.testing.assert_allclose(stats.holm(p), closed)


@pytest.mark.parametrize("p", [[1.1], [-0.1], [np.nan], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.holm(p)


# --- how often a true null is called something -----------------------------------------------

NULLS = {  # draw(rng, shape), and a median of it
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "skewed": (lambda rng, shape: rng.lognormal(0, 1.5, shape), 1.0),
    "heavy tails": (lambda rng, shape: rng.standard_cauchy(shape), 0.0),
    "tied": (lambda rng, shape: np.round(rng.normal(size=shape)), 0.0),
    "tied, skewed": (lambda rng, shape: rng.choice([0, 1, 1, 5], shape), 1.0),
    "constant": (lambda rng, shape: np.full(shape, 0.3), 0.3),
    "binary": (lambda rng, shape: rng.integers(0, 2, shape), 0.0),
}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("direction", ["above", "below"])
def test_a_median_on_its_threshold_is_called_in_1_percent_at_most(name, direction):
    draw, median = NULLS[name]
    called = verdicts(draw(np.random.default_rng(4), (DRAWS, 20)), median, direction)
    for verdict in ("supported", "refuted"):
        assert np.mean(called == verdict) <= 0.01 + 4 * standard_error(0.01)


@pytest.mark.parametrize("name", ["normal", "skewed", "heavy tails"])
def test_for_continuous_numbers_the_rate_is_the_exact_binomial_tail(name):
    draw, median = NULLS[name]
    called = verdicts(draw(np.random.default_rng(5), (DRAWS, 20)), median, "above")
    exact = float(tail(16, 20))  # 0.0059
    assert np.mean(called == "supported") == pytest.approx(exact, abs=4 * standard_error(exact))


@pytest.mark.parametrize("n", [7, 13, 32])
def test_the_rate_holds_at_other_numbers_of_seeds(n):
    called = verdicts(np.random.default_rng(6).normal(size=(DRAWS, n)), 0, "above")
    exact = float(tail(stats.needed_count(n), n))
    assert exact <= 0.01
    assert np.mean(called == "supported") == pytest.approx(exact, abs=4 * standard_error(exact))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_binary_share_on_its_threshold_is_called_in_1_percent_at_most(share):
    ones = (np.random.default_rng(7).random((DRAWS, 20)) < share).sum(1)
    called = np.array([stats.share_verdict(k, 20, share) for k in range(21)])[ones]
    for verdict in ("supported", "refuted"):
        assert np.mean(called == verdict) <= 0.01 + 4 * standard_error(0.01)


@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_equivalence_with_the_median_on_the_margin_errs_in_1_percent_at_most(spread):
    x = np.random.default_rng(8).normal(1, spread, (DRAWS, 20))
    called = verdicts(x, 1, "within")
    for verdict in ("supported", "refuted"):
        assert np.mean(called == verdict) <= 0.01 + 4 * standard_error(0.01)


def test_equivalence_is_not_refuted_by_seeds_that_lie_outside_on_both_sides():
    """Half of the seeds at -5 and half at 5 have a median anywhere between: 1% at most."""
    x = np.random.default_rng(9).choice([-5, 5], (DRAWS, 20))
    called = verdicts(x, 1, "within")
    assert np.mean(called == "refuted") <= 0.01 + 4 * standard_error(0.01)
    assert not np.any(called == "supported")


def test_t_intervals_would_call_far_more_skewed_nulls():
    """Why intervals of the mean only describe; the median rule keeps its promise here."""
    x = np.random.default_rng(10).lognormal(0, 1, (DRAWS, 16))
    low, high = t.interval(0.99, 15, x.mean(1), x.std(1, ddof=1) / 4)
    truth = np.exp(0.5)
    assert np.mean((low > truth) | (high < truth)) > 0.05
    called = verdicts(x, 1, "above")
    assert np.mean(called != "inconclusive") <= 0.02


# --- power -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "shift", "power"),
    [(20, 1.0, 0.80), (20, 1.5, 0.99), (32, 0.75, 0.71), (32, 1.0, 0.94)],
)
def test_power_for_normal_seeds_shifted_by_so_many_standard_deviations(n, shift, power):
    exact = binom.sf(stats.needed_count(n) - 1, n, norm.cdf(shift))
    assert exact == pytest.approx(power, abs=0.005)
    called = verdicts(np.random.default_rng(11).normal(shift, 1, (DRAWS, n)), 0, "above")
    assert np.mean(called == "supported") == pytest.approx(exact, abs=4 * standard_error(exact))


@pytest.mark.parametrize(("n", "spread", "power"), [(20, 1.0, 0.62), (20, 0.5, 1.0)])
def test_power_of_equivalence_for_normal_seeds_around_0_and_margin_1(n, spread, power):
    """Supported iff no more than n - needed seeds lie beyond either end: a trinomial sum."""
    outside = norm.sf(1 / spread)
    few = range(n - stats.needed_count(n) + 1)
    exact = sum(
        comb(n, i) * comb(n - i, j) * outside ** (i + j) * (1 - 2 * outside) ** (n - i - j)
        for i in few
        for j in few
    )
    assert exact == pytest.approx(power, abs=0.01)
    called = verdicts(np.random.default_rng(12).normal(0, spread, (DRAWS, n)), 1, "within")
    error = standard_error(exact)
    assert np.mean(called == "supported") == pytest.approx(exact, abs=4 * error + 1e-4)


# --- looks -----------------------------------------------------------------------------------

PLAN = stats.Looks(10, 80)
PLANS = [PLAN, stats.Looks(8, 30), stats.Looks(1, 40), stats.Looks(20, 20)]


def first_decided(looks):
    """The verdict of each row at the first look that decides it; looks: verdicts[draws] of each."""
    found = np.full(len(looks[0]), "inconclusive")
    for called in looks:
        found = np.where(found == "inconclusive", called, found)
    return found


def verdicts_by(plan, x, threshold, direction):
    """Verdicts of the rows of x[draws, cap] by the plan."""
    level = plan.level()
    return first_decided([verdicts(x[:, :n], threshold, direction, level) for n in plan.counts])


def walk(plan, rule, beyond):
    """Exactly what happens to a count that grows by a Bernoulli(beyond) with each seed.

    Args:
        plan: the looks.
        rule: (count, n) -> verdict at a look of n seeds.
        beyond: probability, a Fraction for exact arithmetic.

    Returns:
        Probability of each verdict, probability of being decided by each look, mean seeds.
    """
    going, decided, by_look = {0: Fraction(1)}, {"supported": 0, "refuted": 0}, []
    before = seeds = 0
    for n in plan.counts:
        seeds += sum(going.values()) * (n - before)
        for _ in range(n - before):
            moved = dict.fromkeys(range(n + 1), 0)
            for count, chance in going.items():
                moved[count + 1] += chance * beyond
                moved[count] += chance * (1 - beyond)
            going = {count: chance for count, chance in moved.items() if chance}
        before = n
        for count in list(going):
            if rule(count, n) != "inconclusive":
                decided[rule(count, n)] += going.pop(count)
        by_look.append(sum(decided.values()))
    assert sum(going.values()) + sum(decided.values()) == pytest.approx(1)
    return decided, by_look, seeds


def sign_rule(plan, level=None):
    level = plan.level() if level is None else level
    return lambda count, n: stats.sign_verdict(count, n - count, n, "above", level)


def test_the_looks_of_a_plan():
    assert PLAN.counts == (10, 20, 30, 40, 50, 60, 70, 80)
    assert stats.Looks(10, 25).counts == (10, 20, 25)
    assert stats.Looks(7, 7).counts == (7,)
    assert PLAN.level() == Fraction(799, 800)
    assert PLAN.level(0.9) == Fraction(79, 80)
    assert stats.Looks(7, 7).level() == Fraction(99, 100)


@pytest.mark.parametrize(("batch", "cap"), [(0, 10), (-1, 10), (11, 10)])
def test_looks_that_are_no_plan_are_refused(batch, cap):
    with pytest.raises(ValueError, match=f"batches of {batch} up to {cap}"):
        stats.Looks(batch, cap)


@pytest.mark.parametrize("plan", PLANS)
def test_each_look_needs_the_smallest_count_with_its_share_of_the_error(plan):
    allowed = Fraction(1, 100 * len(plan.counts))
    for n in plan.counts:
        needed = stats.needed_count(n, plan.level())
        if needed is None:
            assert tail(n, n) > allowed
        else:
            assert tail(needed, n) <= allowed < tail(needed - 1, n)


@pytest.mark.parametrize("plan", PLANS)
def test_a_median_on_its_threshold_is_decided_in_1_percent_of_plans_at_most(plan):
    """In exact arithmetic, for continuous numbers: they lie beyond with probability 1/2."""
    decided, _, _ = walk(plan, sign_rule(plan), Fraction(1, 2))
    assert 0 < decided["supported"] == decided["refuted"] <= Fraction(1, 100)


def test_looking_again_and_again_at_the_plain_level_would_break_the_promise():
    decided, _, _ = walk(PLAN, sign_rule(PLAN, stats.LEVEL), Fraction(1, 2))
    assert decided["supported"] > Fraction(2, 100)


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("direction", ["above", "below"])
def test_no_null_is_called_more_often_however_often_it_is_looked_at(name, direction):
    draw, median = NULLS[name]
    x = draw(np.random.default_rng(20), (DRAWS, PLAN.cap))
    called = verdicts_by(PLAN, x, median, direction)
    for verdict in ("supported", "refuted"):
        assert np.mean(called == verdict) <= 0.01 + 4 * standard_error(0.01)
    if name in ("normal", "skewed", "heavy tails"):
        exact = float(walk(PLAN, sign_rule(PLAN), Fraction(1, 2))[0]["supported"])
        for verdict in ("supported", "refuted"):
            assert np.mean(called == verdict) == pytest.approx(exact, abs=4 * standard_error(exact))
    if name == "constant":
        assert np.all(called == "inconclusive")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_on_its_threshold_is_decided_in_1_percent_of_plans_at_most(share):
    rule = {
        n: [stats.share_verdict(k, n, share, PLAN.level()) for k in range(n + 1)]
        for n in PLAN.counts
    }
    decided, _, _ = walk(PLAN, lambda count, n: rule[n][count], share)
    ones = (np.random.default_rng(21).random((DRAWS, PLAN.cap)) < share).cumsum(1)
    called = first_decided([np.array(rule[n])[ones[:, n - 1]] for n in PLAN.counts])
    for verdict in ("supported", "refuted"):
        exact = float(decided[verdict])
        assert exact <= 0.01
        assert np.mean(called == verdict) == pytest.approx(
            exact, abs=4 * standard_error(exact) + 1e-4
        )


@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_equivalence_on_the_margin_errs_in_1_percent_of_plans_at_most(spread):
    x = np.random.default_rng(22).normal(1, spread, (DRAWS, PLAN.cap))
    called = verdicts_by(PLAN, x, 1, "within")
    for verdict in ("supported", "refuted"):
        assert np.mean(called == verdict) <= 0.01 + 4 * standard_error(0.01)


def test_intervals_hold_at_all_looks_at_once():
    """An interval misses the median where too few seeds lie on one side of it: any look counts."""
    x = np.random.default_rng(23).lognormal(0, 1, (2000, PLAN.cap))
    missed = np.zeros(len(x), bool)
    for n in PLAN.counts:
        ends = np.array([stats.median_interval(row[:n], PLAN.level()) for row in x])
        missed |= (ends[:, 0] > 1) | (ends[:, 1] < 1)
    assert 0 < missed.mean() <= 0.01 + 4 * standard_error(0.01, len(x))


def test_a_large_effect_is_found_at_the_first_or_second_look():
    assert walk(PLAN, sign_rule(PLAN), Fraction(1))[1][0] == 1
    _, by_look, seeds = walk(PLAN, sign_rule(PLAN), Fraction(99, 100))
    assert by_look[1] > Fraction(99, 100)
    assert 10 < seeds < 12


def test_power_and_mean_seeds_where_nine_of_ten_seeds_lie_beyond():
    decided, by_look, seeds = walk(PLAN, sign_rule(PLAN), Fraction(9, 10))
    assert decided["supported"] > 1 - Fraction(1, 10**6)
    assert seeds < 20
    x = np.random.default_rng(24).normal(norm.ppf(0.9), 1, (DRAWS, PLAN.cap))
    at_first = verdicts(x[:, :10], 0, "above", PLAN.level())
    exact = float(by_look[0])
    assert np.mean(at_first == "supported") == pytest.approx(exact, abs=4 * standard_error(exact))
    assert np.mean(verdicts_by(PLAN, x, 0, "above") == "supported") > 0.999


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    x, y = np.random.default_rng(0).integers(0, 4, (2, 6, 3)).astype(float)
    expected = [spearmanr(x[:, i], y[:, i]).statistic for i in range(3)]
    np.testing.assert_allclose(stats.rank_correlation(x, y), expected, rtol=1e-12)
    assert np.isnan(stats.rank_correlation(x * 0, y)).all()
