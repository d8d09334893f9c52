"""Claims judged on small records whose verdict is known by counting."""

import dataclasses
import json
import subprocess
import sys
from fractions import Fraction
from functools import partial
from math import comb
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dlstudy import stats
from dlstudy.claims import (
    Claim,
    adjust,
    combine,
    conditional,
    conjunction,
    decidable,
    judge,
    looks_of,
    table,
    to_json,
    undecided,
)

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def read_x(record):
    """The number x of each seed.

    Only the first line is shown.
    """
    return record["x"].values


def claim(kind="paired", direction="above", threshold=0.0, statistic=read_x, **fields):
    return Claim(
        **{
            "id": "1.1",
            "sentence": "x is large",
            "kind": kind,
            "statistic": statistic,
            "direction": direction,
            "threshold": threshold,
            "reason": "the smallest x anyone would notice",
            "unit": "nats",
            "section": "1",
            **fields,
        }
    )


def record(x, **variables):
    return xr.Dataset({"x": ("seed", np.asarray(x)), **variables})


def verdict_of(claim, x, **variables):
    (verdict,) = judge([claim], record(x, **variables))
    return verdict


def signs(above, below, ties=0):
    return np.array([1.0] * above + [-1.0] * below + [0.0] * ties)


# --- the three kinds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "above", "below"),
    [
        (signs(16, 4), "supported", "refuted"),
        (signs(15, 5), "inconclusive", "inconclusive"),
        (signs(15, 0, 5), "inconclusive", "inconclusive"),
        (signs(4, 16), "refuted", "supported"),
        (signs(24, 8), "supported", "refuted"),
        (signs(23, 9), "inconclusive", "inconclusive"),
        (signs(0, 0, 20), "inconclusive", "inconclusive"),
    ],
)
def test_paired(x, above, below):
    for direction, expected in (("above", above), ("below", below)):
        assert verdict_of(claim(direction=direction), x).verdict == expected


def test_every_number_of_a_paired_verdict():
    x = np.arange(1.0, 21.0)
    got = verdict_of(claim(threshold=4.5), x)
    assert (got.verdict, got.n, got.seeds, got.beyond, got.needed) == ("supported", 20, 20, 16, 16)
    assert (got.effect, got.low, got.high, got.level) == (10.5, 4, 17, 0.99)
    assert got.p == got.p_holm == 6196 / 2**20
    assert got.p_against == 1 - sum([1, 20, 190, 1140]) / 2**20  # at least 4 of 20 below
    assert (got.mean, got.mean_low, got.mean_high) == (10.5, *stats.t_interval(x))
    assert (got.bca_low, got.bca_high) == stats.bca_interval(x)
    assert (got.threshold, got.unit, got.section) == (4.5, "nats", "1")
    assert got.threshold_reason == "the smallest x anyone would notice"
    assert got.reason == (
        "16 of 20 seeds lie above 4.5 nats (16 needed); "
        "on the edge, the interval still reaches the threshold"
    )
    assert got.measures == "The number x of each seed"
    assert got.statistic.endswith("test_claims.read_x")
    assert all(type(v) in (int, float) for v in (got.n, got.beyond, got.needed, got.p, got.effect))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.zeros(20), "supported"),
        (signs(8, 8, 4) * 0.99, "supported"),
        (signs(0, 0, 20) + 1, "inconclusive"),  # on the margin is not inside it
        (signs(4, 4, 12) * 5, "supported"),  # scattered seeds, but a median well inside
        (signs(5, 4, 11) * 5, "inconclusive"),
        (signs(16, 0, 4) * 5, "inconclusive"),
        (signs(17, 0, 3) * 5, "refuted"),
        (signs(0, 17, 3) * 5, "refuted"),
        (signs(10, 10) * 5, "inconclusive"),
    ],
)
def test_equivalence(x, expected):
    assert verdict_of(claim(direction="within", threshold=1.0), x).verdict == expected


def test_p_values_of_equivalence():
    got = verdict_of(claim(direction="within", threshold=1.0), signs(17, 0, 3) * 5)
    assert got.p == 1 - sum([1, 20, 190]) / 2**20  # at least 3 of 20 below the upper end
    assert got.p_against == 2 * sum([1140, 190, 20, 1]) / 2**20  # either end could be left
    assert got.p_against <= 0.01


@pytest.mark.parametrize("n", range(8, 40))
def test_equivalence_follows_when_the_interval_lies_inside_the_margin(n):
    x = np.arange(n) - (n - 1) / 2
    low, high = stats.median_interval(x)
    assert -high == low
    within = partial(claim, direction="within")
    assert verdict_of(within(threshold=high + 0.25), x).verdict == "supported"
    shifted = x + high + 10.25
    assert verdict_of(within(threshold=10.0), shifted).verdict == "refuted"


@pytest.mark.parametrize(
    ("ones", "threshold", "direction", "expected"),
    [
        (20, 0.5, "above", "supported"),
        (17, 0.5, "above", "supported"),
        (16, 0.5, "above", "inconclusive"),  # 99% Clopper-Pearson 0.496 to 0.955
        (0, 0.5, "above", "refuted"),
        (0, 0.5, "below", "supported"),
        (3, 0.5, "below", "supported"),
        (4, 0.5, "below", "inconclusive"),
        (20, 0.9, "above", "inconclusive"),
    ],
)
def test_proportion(ones, threshold, direction, expected):
    x = [1] * ones + [0] * (20 - ones)
    got = verdict_of(claim("proportion", direction, threshold), np.array(x, bool))
    assert got.verdict == expected
    assert got.effect == ones / 20
    assert (got.low, got.high) == stats.share_interval(ones, 20)
    assert (got.beyond >= (got.needed or 21)) == (expected == "supported")
    assert got.p == pytest.approx(
        stats.share_p(got.beyond, 20, threshold if direction == "above" else 1 - threshold)
    )


@pytest.mark.parametrize(
    ("x", "direction", "expected", "effect"),
    [
        ([0, 1e-7, -1e-6], "within", "supported", -1e-6),
        ([0, 1e-7, -1.1e-6], "within", "refuted", -1.1e-6),
        ([0, -5], "below", "supported", 0),
        ([0, 2e-6], "below", "refuted", 2e-6),
        ([1, 2e-6], "above", "supported", 2e-6),
        ([1, 0], "above", "refuted", 0),
    ],
)
def test_exact(x, direction, expected, effect):
    got = verdict_of(claim("exact", direction, 1e-6), x)
    assert (got.verdict, got.effect, got.needed) == (expected, effect, len(x))
    assert got.low is got.high is got.p is got.mean is None


def test_exact_with_tolerance_0_is_equality():
    assert verdict_of(claim("exact", "within", 0.0), np.zeros(3)).verdict == "supported"
    assert verdict_of(claim("exact", "within", 0.0), [0, 0, 5e-324]).verdict == "refuted"


def test_exact_on_every_seed_is_not_shown_by_some():
    exact = claim("exact", "within", 0.1)
    got = verdict_of(exact, [0, np.nan, 0])
    assert (got.verdict, got.missing, got.n, got.needed) == ("inconclusive", (1,), 2, 3)
    assert verdict_of(exact, [0, np.nan, 1]).verdict == "refuted"


def test_exact_needs_no_seeds():
    exact = claim("exact", "within", 0.1, lambda record: record["gap"].max())
    (got,) = judge([exact], xr.Dataset({"gap": ("depth", [0.0, 0.05])}))
    assert (got.verdict, got.effect, got.n) == ("supported", 0.05, 1)
    assert verdict_of(exact, [1.0, 2.0], gap=((), 0.3)).verdict == "refuted"


# --- seeds that are not there ----------------------------------------------------------------


def test_diverged_seeds_are_left_out_and_named():
    steps = np.full(20, -1)
    steps[[3, 17]] = 40, 0
    x = signs(20, 0)
    x[3] = np.nan
    got = verdict_of(claim(), x, diverged_step=("seed", steps))
    assert (got.verdict, got.n, got.seeds, got.diverged, got.missing) == (
        "supported", 18, 20, (3, 17), ()
    )  # fmt: skip
    assert got.reason.endswith("diverged and left out: seeds 3, 17")
    assert got.at_worst == "supported"  # 18 of 20


def test_seeds_keep_their_labels():
    data = record(signs(19, 0)).assign_coords(seed=np.arange(100, 119))
    data["x"][4] = np.nan
    (got,) = judge([claim()], data)
    assert got.missing == (104,)
    assert "without a value: seed 104" in got.reason


def test_a_verdict_says_when_the_seeds_left_out_could_turn_it():
    x = signs(15, 0, 0).tolist() + [np.nan] * 5
    got = verdict_of(claim(), x)
    assert (got.verdict, got.at_worst) == ("supported", "inconclusive")
    assert got.reason.endswith("inconclusive if these spoke against it")
    got = verdict_of(claim(direction="below"), x)
    assert (got.verdict, got.at_worst) == ("refuted", "inconclusive")
    got = verdict_of(claim(), signs(7, 0).tolist() + [np.nan] * 93)
    assert (got.verdict, got.at_worst) == ("supported", "refuted")
    ones = verdict_of(claim("proportion", threshold=0.5), [1] * 15 + [np.nan] * 5)
    assert (ones.verdict, ones.at_worst) == ("supported", "inconclusive")


def test_only_the_arms_of_a_claim_take_seeds_out():
    steps = np.full((20, 2), -1)
    steps[2, 0], steps[5, 1] = 10, 10
    data = record(signs(20, 0), diverged_step=(("seed", "arm"), steps))
    data = data.assign_coords(arm=["adam", "sgd"])

    def diverged(*arms):
        (got,) = judge([claim(arms=arms)], data)
        return got.diverged

    assert diverged("adam") == (2,)
    assert diverged("sgd") == (5,)
    assert diverged("adam", "sgd") == diverged() == (2, 5)
    (got,) = judge([claim(arms=("lion",))], data)
    assert (got.verdict, got.reason) == ("inconclusive", "the record has no arm lion")


def test_a_claim_about_divergence_keeps_the_diverged():
    steps = np.where(np.arange(20) < 6, 3, -1)
    share = claim(
        "proportion", "above", 0.5, lambda record: record["diverged_step"] < 0, keep_diverged=True
    )
    got = verdict_of(share, np.zeros(20), diverged_step=("seed", steps))
    assert (got.n, got.effect, got.diverged) == (20, 0.7, tuple(range(6)))
    assert got.at_worst == got.verdict
    assert "diverged but counted: seeds 0, 1, 2, 3, 4, 5" in got.reason


# --- statistics that fail --------------------------------------------------------------------


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("statistic", "reason"),
    [
        (lambda r: fail(ZeroDivisionError("by zero")), "failed: ZeroDivisionError: by zero"),
        (lambda r: fail(RuntimeError("a\nb")), "failed: RuntimeError: a"),
        (lambda r: fail(AssertionError()), "failed: AssertionError"),
        (lambda r: r["absent"], "failed: KeyError"),
        (lambda r: np.log(-np.ones(20)), "no seed has a value"),
        (lambda r: np.zeros(19), r"shape (19,); one number per seed is (20,)"),
        (lambda r: np.zeros((20, 1)), "shape (20, 1)"),
        (lambda r: 3.0, "shape ()"),
        (lambda r: r["loss"], "shape ('epoch',)"),
        (lambda r: np.full(20, np.nan), "no seed has a value; without a value: seeds 0, 1,"),
        (lambda r: np.ma.masked_all(20), "no seed has a value"),
        (lambda r: np.array([1.0] * 19 + [np.inf]), "infinite at seed 19"),
        (lambda r: np.zeros(20, complex), "complex128, not real numbers"),
        (lambda r: ["high"] * 20, "not real numbers"),
        (lambda r: None, "object, not real numbers"),
    ],
)
def test_a_bad_statistic_is_inconclusive_with_the_reason(statistic, reason):
    loss = ("epoch", np.zeros(20))  # as many epochs as seeds
    for kind, threshold in (("paired", 0.1), ("proportion", 0.5)):
        got = verdict_of(claim(kind, "above", threshold, statistic), np.zeros(20), loss=loss)
        assert (got.verdict, got.n, got.effect) == ("inconclusive", 0, None)
        assert {got.at_half, got.at_double, got.at_worst} == {"inconclusive"}
        assert reason in got.reason
        assert "\n" not in got.reason


def test_a_share_of_something_else_than_0_and_1():
    got = verdict_of(claim("proportion", "above", 0.5), [1, 0, 0.5, 2])
    assert (got.verdict, got.reason) == ("inconclusive", "neither 0 nor 1 at seeds 2, 3")


def test_a_record_of_one_seed_taken_out_has_no_seed_axis():
    one = record(np.ones(3)).assign_coords(seed=[7, 8, 9]).isel(seed=0)
    (got,) = judge([claim()], one)
    assert got.verdict == "inconclusive"
    assert got.reason == "the statistic has shape (); one number per seed is (0,)"


def test_no_record():
    parts = combine("1", "both", [claim(), claim(id="1.2")])
    assert [v.verdict for v in judge([parts], None)] == ["inconclusive"] * 3
    assert judge([claim()], None)[0].reason == "no record"
    for broken in (xr.Dataset(), xr.Dataset({"x": ((), 1.0)}), "not a record"):
        assert judge([claim()], broken)[0].verdict == "inconclusive"


@pytest.mark.parametrize("n", range(1, 9))
def test_few_seeds(n):
    got = verdict_of(claim(), np.ones(n))
    assert got.verdict == ("supported" if n >= 7 else "inconclusive")
    assert np.isinf(got.low) == (n < 8)
    if n < 7:
        assert got.needed is None
        assert got.reason.startswith(f"{n} seed")
        assert got.reason.endswith("cannot decide, at least 7 are needed")
    if n == 7:
        assert got.reason.endswith("so few seeds leave the interval unbounded")


def test_numbers_at_the_ends_of_the_range_do_no_harm():
    for x in ([1.7e308] * 20, [1.7e308, -1.7e308] * 10, [5e-324] * 19 + [0.0], [1e308] * 10 + [0]):
        got = verdict_of(claim(), x)
        json.loads(to_json([got]))


def test_float32_ties_count_as_ties():
    got = verdict_of(claim(threshold=0.1), np.full(20, 0.1, np.float32))
    assert (got.verdict, got.beyond) == ("inconclusive", 0)


def test_a_broken_statistic_turns_its_verdict():
    rng = np.random.default_rng(0)
    loss = np.exp(-np.linspace(0, 3, 25)) * rng.lognormal(0, 0.1, (20, 25))
    data = xr.Dataset({"loss": (("seed", "epoch"), loss)})

    def final_over_first(record):
        return record["loss"].isel(epoch=-1) / record["loss"].isel(epoch=0)

    def first_over_final(record):
        return 1 / final_over_first(record)

    falls = claim(direction="below", threshold=0.5, statistic=final_over_first)
    broken = dataclasses.replace(falls, id="1.2", statistic=first_over_final)
    assert [v.verdict for v in judge([falls, broken], data)] == ["supported", "refuted"]


# --- thresholds ------------------------------------------------------------------------------


def test_verdicts_at_half_and_double_the_threshold():
    got = verdict_of(claim(threshold=10.0), np.arange(1, 21))
    assert (got.at_half, got.verdict, got.at_double) == ("inconclusive",) * 2 + ("refuted",)
    got = verdict_of(claim(threshold=6.0), np.arange(1, 21))
    assert (got.at_half, got.verdict, got.at_double) == ("supported",) + ("inconclusive",) * 2
    got = verdict_of(claim("exact", "within", 1.0), [0.5, 1.5])
    assert (got.at_half, got.verdict, got.at_double) == ("refuted", "refuted", "supported")


def test_a_threshold_of_0_is_its_own_half_and_double():
    got = verdict_of(claim(), np.ones(20))
    assert got.at_half == got.verdict == got.at_double == "supported"


def test_a_share_halves_and_doubles_its_odds():
    """0.6 has odds 1.5: half is 3/7, double is 3/4; 17 of 20 has the interval 0.55 to 0.98."""
    got = verdict_of(claim("proportion", "above", 0.6), [1] * 17 + [0] * 3)
    assert (got.at_half, got.verdict, got.at_double) == ("supported",) + ("inconclusive",) * 2


# --- control arms and compound sentences -----------------------------------------------------


def two_arms(main, control, direction="above"):
    other = claim(statistic=lambda r: r["other"], condition="with SGD", direction=direction)
    here = claim(control=other, condition="with Adam", direction=direction)
    return verdict_of(here, main, other=("seed", control))


@pytest.mark.parametrize(
    ("main", "control", "expected"),
    [
        (signs(20, 0), signs(20, 0), "supported"),
        (signs(20, 0), signs(10, 10), "supported"),
        (signs(20, 0), signs(0, 20), "conditional"),
        (signs(0, 20), signs(20, 0), "conditional"),
        (signs(0, 20), signs(10, 10), "refuted"),
        (signs(0, 20), signs(0, 20), "refuted"),
        (signs(10, 10), signs(20, 0), "inconclusive"),
        (signs(10, 10), signs(0, 20), "inconclusive"),
    ],
)
def test_a_condition_takes_a_decision_in_each_arm(main, control, expected):
    got = two_arms(main, control)
    assert got.verdict == got.at_half == got.at_double == got.at_worst == expected
    assert bool(got.condition) == (expected == "conditional")


def test_the_condition_is_named():
    got = two_arms(signs(20, 0), signs(0, 20))
    assert got.condition == "holds with Adam, fails with SGD"
    assert got.effect == 1
    assert (got.control.effect, got.control.verdict, got.control.arm) == (-1, "refuted", "with SGD")
    assert two_arms(signs(0, 20), signs(20, 0)).condition == "holds with SGD, fails with Adam"
    assert two_arms(signs(20, 0), signs(10, 10)).reason.endswith("with SGD: inconclusive")


def test_conditional_is_a_rule_on_two_verdicts():
    assert conditional("supported", "refuted") == conditional("refuted", "supported")
    assert conditional("supported", "inconclusive") == "supported"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "refuted"], "refuted"),
        (["inconclusive", "refuted"], "refuted"),
        (["supported", "inconclusive"], "inconclusive"),
        (["conditional", "supported"], "conditional"),
        (["conditional", "inconclusive"], "inconclusive"),
    ],
)
def test_all_parts_of_a_sentence_must_hold(parts, expected):
    assert conjunction(parts) == conjunction(parts[::-1]) == expected


def test_a_compound_sentence_is_followed_by_its_parts():
    whole = combine(
        "5.3",
        "x is above 0 and above 15",
        [claim(id="5.3a"), claim(id="5.3b", threshold=15.0)],
    )
    x = np.arange(1.0, 21.0)
    x[2] = np.nan
    got = judge([whole, claim(id="6")], record(x))
    assert [v.id for v in got] == ["5.3", "5.3a", "5.3b", "6"]
    assert [v.verdict for v in got] == ["inconclusive", "supported", "inconclusive", "supported"]
    assert (got[0].reason, got[0].section, got[0].missing) == ("decided by 5.3b", "1", (2,))
    assert got[0].effect is got[0].p is got[0].n is None
    assert (got[0].at_half, got[0].at_double) == ("inconclusive", "refuted")
    got = judge([combine("5", "twice", [claim(id="5a"), claim(id="5b")])], record(np.ones(20)))
    assert (got[0].verdict, got[0].reason) == ("supported", "all parts are supported")


# --- what stands beside a verdict ------------------------------------------------------------


def readings(x, other):
    """A claim as the source has it, on x, beside the book's, on `other`."""
    book = claim(statistic=lambda r: r["other"], reading="book", threshold=2.0, figure="book_x")
    here = claim(reading="source", other_reading=book, figure="x_over_time")
    return verdict_of(here, x, other=("seed", other))


@pytest.mark.parametrize("other", [signs(20, 0) * 9, signs(0, 20), signs(10, 10) * 9])
def test_another_reading_is_judged_and_changes_nothing(other):
    got = readings(signs(20, 0), other)
    plain = verdict_of(claim(figure="x_over_time"), signs(20, 0))
    expected = {9.0: "supported", -1.0: "refuted"}.get(np.mean(other), "inconclusive")
    assert (got.other_reading.verdict, got.other_reading.threshold) == (expected, 2.0)
    assert (got.reading, got.other_reading.reading) == ("source", "book")
    assert (got.figure, got.other_reading.figure) == ("x_over_time", "book_x")
    changed = {"reading": "", "other_reading": None, "p_holm": got.p, "p_against_holm": 1.0}
    assert dataclasses.replace(got, **changed) == plain


def test_another_reading_belongs_to_the_family():
    got = readings(signs(20, 0), signs(17, 3) * 9)
    assert got.p_holm == 2 * got.p  # the smaller of two
    assert got.other_reading.p_holm == got.other_reading.p == 1351 / 2**20


def test_values_and_labels_are_those_of_the_seeds_used():
    x = np.arange(10, 30, dtype=np.float32)
    x[4] = np.nan
    steps = np.where(np.arange(20) == 7, 3, -1)
    data = record(x, diverged_step=("seed", steps)).assign_coords(seed=np.arange(100, 120))
    (got,) = judge([claim()], data)
    kept = [i for i in range(20) if i not in (4, 7)]
    assert got.values == tuple(10.0 + i for i in kept)
    assert got.labels == tuple(100 + i for i in kept)
    assert got.n == 18
    assert {type(v) for v in got.values} == {float}
    assert {type(v) for v in got.labels} == {int}
    (failed,) = judge([claim(statistic=lambda r: r["absent"])], data)
    assert failed.values == failed.labels == ()
    exact = claim("exact", "within", 1.0, lambda r: r["gap"])
    (got,) = judge([exact], xr.Dataset({"gap": ("depth", [0.0, 0.5])}))
    assert (got.values, got.labels) == ((0.0, 0.5), (0, 1))


def test_code_is_the_place_of_the_statistic():
    line = read_x.__code__.co_firstlineno
    assert verdict_of(claim(), np.ones(8)).code == f"test_claims.py:{line}"
    inner = partial(partial(read_x))
    assert verdict_of(claim(statistic=inner), np.ones(8)).code == f"test_claims.py:{line}"
    text = Path(__file__).read_text().splitlines()
    assert text[line - 1] == "def read_x(record):"
    inside = verdict_of(claim(statistic=stats.holm), np.ones(8)).code
    assert inside.startswith("dlstudy/stats.py:")
    assert verdict_of(claim(statistic=np.mean), np.ones(8)).code.count(":") <= 1  # no Python: ""


# --- looks -----------------------------------------------------------------------------------

THIRTY = {"seed_batch": 10, "seed_cap": 30}  # three looks, each of level 1 - 1/300


def tail(count, n):
    return Fraction(sum(comb(n, k) for k in range(count, n + 1)), 2**n)


def looked_at(claim, x, **variables):
    (verdict,) = judge([claim], record(x, **variables).assign_attrs(THIRTY))
    return verdict


ONE_BELOW = [*signs(9, 1), *signs(20, 0)]
SCATTERED = [*signs(6, 4), *signs(6, 4), *signs(10, 0)]


@pytest.mark.parametrize(
    ("x", "expected"),
    [  # verdict, look, seeds, beyond, needed; needed: 10 of 10, 17 of 20, 23 of 30
        (signs(30, 0), ("supported", 1, 10, 10, 10)),
        (ONE_BELOW, ("supported", 2, 20, 19, 17)),
        ([*signs(7, 3), *signs(6, 4), *signs(10, 0)], ("supported", 3, 30, 23, 23)),
        (SCATTERED, ("inconclusive", 3, 30, 22, 23)),
        ([*signs(0, 10), *signs(20, 0)], ("refuted", 1, 10, 0, 10)),  # later seeds change nothing
        (signs(9, 1), ("inconclusive", 1, 10, 9, 10)),
        ([*signs(9, 1), *signs(5, 0)], ("inconclusive", 1, 10, 9, 10)),  # 15 seeds: no look
    ],
)
def test_a_verdict_is_that_of_the_first_look_that_decides(x, expected):
    got = looked_at(claim(), x)
    assert (got.verdict, got.looks, got.n, got.beyond, got.needed) == expected
    assert (got.of_looks, got.level, got.seeds) == (3, 0.99, got.n)
    assert got.values == tuple(np.asarray(x, float)[: got.n])
    assert got.labels == tuple(range(got.n))
    assert f"; look {got.looks} of 3 ({got.n} seeds, level 99.6667%)" in got.reason


@pytest.mark.parametrize(
    ("x", "p"),
    [
        (signs(30, 0), 3 * tail(10, 10)),
        (ONE_BELOW, 3 * tail(19, 20)),
        (SCATTERED, 3 * min(tail(6, 10), tail(12, 20), tail(22, 30))),
        ([*signs(9, 1), *signs(5, 15)], 3 * tail(9, 10)),  # the smallest was the first
        (signs(0, 10), 1),
    ],
)
def test_p_allows_for_all_looks_of_the_plan(x, p):
    assert looked_at(claim(), x).p == float(min(1, p))
    assert looked_at(claim(direction="below"), x).p_against == float(min(1, p))


LOOKED = st.lists(st.integers(-2, 4), min_size=10, max_size=30)


@given(LOOKED, st.sampled_from([("above", 0), ("below", 0), ("within", 1)]))
@PROPERTY
def test_p_is_small_exactly_where_a_claim_is_decided(x, about):
    direction, threshold = about
    got = looked_at(claim(direction=direction, threshold=threshold), x)
    assert (got.p <= 0.01) == (got.verdict == "supported")
    assert (got.p_against <= 0.01) == (got.verdict == "refuted")


@pytest.mark.parametrize(
    "claimed",
    [
        claim(threshold=0.5),
        claim(direction="within", threshold=3.0),
        claim("proportion", threshold=0.6, statistic=lambda r: r["x"] > 0),
    ],
)
def test_the_numbers_of_a_look_are_those_of_its_seeds_at_its_level(claimed):
    x = np.random.default_rng(3).normal(1.2, 1, 30)
    got = looked_at(claimed, x)
    (plain,) = judge([claimed], record(x[: got.n]), Fraction(299, 300))
    same = (
        "verdict effect low high n beyond needed at_half at_double at_worst mean mean_low "
        "mean_high bca_low bca_high values labels seeds"
    )
    for field in same.split():
        assert getattr(got, field) == getattr(plain, field), field
    assert got.p <= 3 * plain.p


def test_one_look_at_all_seeds_is_no_plan_at_all():
    x = np.random.default_rng(4).normal(0.5, 1, 20)
    once = record(x).assign_attrs(seed_batch=20, seed_cap=20)
    for claimed in (claim(), claim("proportion", threshold=0.5, statistic=lambda r: r["x"] > 0)):
        (got,), (plain,) = judge([claimed], once), judge([claimed], record(x))
        reason = got.reason.replace("; look 1 of 1 (20 seeds, level 99%)", "")
        assert dataclasses.replace(got, looks=None, of_looks=None, reason=reason) == plain


def test_seeds_are_taken_out_after_the_look_is_taken():
    steps = np.where(np.arange(30) < 2, 5, -1)
    got = looked_at(claim(), signs(30, 0), diverged_step=("seed", steps))
    assert (got.looks, got.seeds, got.n, got.diverged) == (2, 20, 18, (0, 1))
    assert got.labels == tuple(range(2, 20))
    first = record(signs(10, 0), diverged_step=("seed", steps[:10])).assign_attrs(THIRTY)
    (got,) = judge([claim()], first)
    assert got.reason == (
        "8 seeds cannot decide, at least 9 are needed; look 1 of 3 (10 seeds, level 99.6667%); "
        "diverged and left out: seeds 0, 1"
    )


def test_an_exact_claim_is_judged_once_on_all_seeds():
    x = np.zeros(30)
    x[25] = 1
    got = looked_at(claim("exact", "within", 0.1), x)
    assert (got.verdict, got.n, got.looks, got.of_looks) == ("refuted", 30, None, None)
    assert "look" not in got.reason


def test_a_record_shorter_than_the_first_look_decides_nothing():
    got = looked_at(claim(), signs(9, 0))
    assert (got.verdict, got.looks, got.seeds, got.n) == ("inconclusive", 0, 9, 0)
    assert got.reason == "the first look is at 10 seeds, the record has 9"
    for broken in (xr.Dataset(attrs=THIRTY), record(1.0 * np.ones(10)).isel(seed=0)):
        assert judge([claim()], broken.assign_attrs(THIRTY))[0].verdict == "inconclusive"


def test_each_arm_is_decided_at_its_own_look():
    control = claim(statistic=lambda r: r["other"], condition="with SGD")
    here = claim(condition="with Adam", control=control)
    got = looked_at(here, signs(30, 0), other=("seed", -np.array(ONE_BELOW)))
    assert (got.looks, got.control.looks) == (1, 2)
    assert got.verdict == "conditional"


def test_the_plan_of_a_record():
    assert looks_of(record(signs(3, 0)).assign_attrs(THIRTY)) == stats.Looks(10, 30)
    assert looks_of(record(signs(3, 0))) is looks_of(None) is None


def test_what_more_seeds_could_still_decide():
    mixed, clear = signs(5, 5), signs(10, 0)
    control = claim(statistic=lambda r: r["mixed"], condition="with SGD")
    other = claim(statistic=lambda r: r["mixed"], reading="book")
    claims = [
        claim(id="1"),
        claim(id="2", statistic=lambda r: r["mixed"]),
        claim(id="3", condition="with Adam", control=control),
        claim(id="4", reading="source", other_reading=other),
        claim("exact", id="5", statistic=lambda r: np.full(10, np.nan)),
        claim("exact", id="6", statistic=lambda r: np.array([np.nan] + [1.0] * 9)),
        claim(id="7", statistic=lambda r: r["absent"]),
        combine("8", "both", [claim(id="8a"), claim(id="8b", statistic=lambda r: r["mixed"])]),
    ]
    data = record(clear, mixed=("seed", mixed)).assign_attrs(THIRTY)
    verdicts = judge(claims, data)
    waiting = undecided(verdicts)
    assert [v.id for v in waiting] == ["2", "1.1", "1.1", "8b"]
    assert waiting[1] is verdicts[2].control
    assert waiting[2] is verdicts[3].other_reading
    assert len(decidable(verdicts)) == 8
    assert undecided(judge(claims, None)) == []


def test_the_table_says_at_which_look():
    drawn = draw([looked_at(claim(id="1"), ONE_BELOW)], 80)
    assert "look 2/3" in drawn
    assert "19 of 20" in drawn
    assert "allow for all looks" in " ".join(drawn.split())
    assert "look" not in draw([verdict_of(claim(id="1"), np.ones(8))], 80)


# --- the ledger ------------------------------------------------------------------------------


def test_p_values_are_adjusted_over_everything_judged_together():
    shifted = partial(claim, statistic=lambda r: r["x"].values + 0.0)
    claims = [
        shifted(id="a", threshold=4.5),  # 16 of 20
        shifted(id="b", threshold=0.5),  # 20 of 20
        shifted(id="c", threshold=10.5),  # 10 of 20
        claim("exact", "above", 0.0, id="d"),
    ]
    verdicts = judge(claims, record(np.arange(1, 21)))
    a, b, c = (6196 / 2**20, 1 / 2**20, 616666 / 2**20)
    assert [v.p for v in verdicts] == [a, b, c, None]
    assert [v.p_holm for v in verdicts] == [2 * a, 3 * b, c, None]

    unread = judge([shifted(id="e", statistic=lambda r: r["absent"])], None)
    ledger = adjust([*verdicts, *unread])
    assert [v.p_holm for v in ledger] == [3 * a, 4 * b, 2 * c if 2 * c < 1 else 1, None, None]


def test_controls_belong_to_the_family():
    got = two_arms(signs(20, 0), signs(0, 20))
    assert got.p_holm == 2 * got.p
    assert got.control.p_against_holm == 2 * got.control.p_against


def test_ids_are_distinct():
    with pytest.raises(ValueError, match=r"share the id 1\.1"):
        judge([claim(), claim()], None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "guess"}, "kind is 'guess'"),
        ({"direction": "sideways"}, "above or below or within"),
        ({"kind": "proportion", "direction": "within", "threshold": 0.5}, "above or below"),
        ({"kind": "proportion", "threshold": 1.0}, "strictly between 0 and 1"),
        ({"threshold": np.nan}, "must be finite"),
        ({"direction": "within", "threshold": 0.0}, "nothing inside"),
        ({"kind": "exact", "direction": "within", "threshold": -1.0}, "nothing inside"),
        ({"reason": " "}, "needs its reason"),
        ({"statistic": None}, "must be a function"),
        ({"control": claim()}, "a condition for each"),
        ({"parts": (claim(), claim())}, "combine"),
        ({"kind": "compound", "parts": (claim(id="1.1a"),)}, "two or more parts"),
        ({"kind": "compound", "parts": (claim(), claim(id="1.1b"))}, "ids like 1.1a"),
        ({"reading": "source", "other_reading": claim()}, "vice versa"),
        ({"reading": "source", "other_reading": claim(reading="source")}, "vice versa"),
        ({"other_reading": claim(reading="book")}, "vice versa"),
        (
            {
                "condition": "a",
                "control": claim(
                    condition="b", reading="source", other_reading=claim(reading="book")
                ),
            },
            "a control is a single claim",
        ),
        (
            {
                "reading": "book",
                "other_reading": claim(reading="source", other_reading=claim(reading="book")),
            },
            "single claim without another reading",
        ),
        (
            {
                "reading": "book",
                "other_reading": dataclasses.replace(
                    combine("1", "both", [claim(id="1a"), claim(id="1b")]), reading="source"
                ),
            },
            "single claim without another reading",
        ),
        (
            {
                "kind": "compound",
                "parts": (claim(id="1.1a"), claim(id="1.1b")),
                "other_reading": claim(reading="book"),
            },
            "no other reading of its own",
        ),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused_where_it_is_declared(fields, message):
    with pytest.raises(ValueError, match=message):
        claim(**fields)


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_json_is_strict_and_complete():
    verdicts = [
        two_arms(signs(20, 0), signs(0, 20)),
        verdict_of(claim(), np.ones(7)),
        verdict_of(claim(), [0, 5e-324] * 10),  # a BCa interval that is not a number
        verdict_of(claim("exact", "within", 0.1), np.zeros(3)),
        *judge([claim()], None),
    ]
    rows = json.loads(to_json(verdicts), parse_constant=refuse_constant)
    fields = [f.name for f in dataclasses.fields(verdicts[0])]
    assert all(list(row) == fields for row in rows)
    assert rows[0]["control"]["verdict"] == "refuted"
    assert (rows[1]["low"], rows[1]["high"], rows[1]["effect"]) == (None, None, 1)
    assert rows[2]["bca_low"] is None
    assert json.loads(to_json([])) == []


def draw(verdicts, width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table(verdicts))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_tells_verdicts_apart_without_colour(width):
    x = np.arange(1.0, 21.0)
    x[6] = np.nan
    other = claim(condition="with SGD", statistic=lambda r: -r["x"])
    whole = combine("2", "x is [large] and small", [claim(id="2a"), claim(id="2b", threshold=30.0)])
    claims = [
        claim(id="1", condition="with Adam", control=other),
        whole,
        claim(id="3", statistic=lambda r: r["absent"]),
        claim("exact", "within", 25.0, id="4"),
    ]
    drawn = draw(judge(claims, record(x)), width)
    marks = ["◐ conditional", "✓ supported", "✗ refuted", "? inconclusive"]
    numbers = ["11 nats", "[4, 17]", "> 30", "in ±25", "19 of 19", "needs 15"]
    for text in [*marks, *numbers, "[large]", "without a value"]:
        assert text in drawn, drawn
    assert max(map(len, drawn.splitlines())) <= width
    assert "…" not in drawn
    assert "effect" in draw([], width)


def test_the_table_shows_the_p_of_the_verdict_beside_the_adjusted_one():
    claims = [claim(id=str(i), threshold=float(np.log10(2))) for i in range(26)]
    drawn = draw(judge(claims, record(np.arange(1.0, 9.0))), 80)
    assert drawn.count("p = 0.0039") == drawn.count("Holm = 0.1") == 26
    assert "own row's test, unadjusted" in " ".join(drawn.split())
    assert drawn.count("> 0.301 ") == 26  # three digits, as everywhere
    assert "0.3010" not in drawn


def test_the_table_shows_the_other_reading_below_its_claim():
    book = claim(id="1", reading="book", statistic=lambda r: -r["x"])
    drawn = draw(
        judge([claim(id="1", reading="source", other_reading=book)], record(np.ones(8))), 80
    )
    rows = drawn.splitlines()
    at = next(i for i, row in enumerate(rows) if "as the book has it" in row)
    assert "✗ refuted" in rows[at]
    assert any("✓ supported" in row for row in rows[:at])


def test_the_table_says_what_support_takes_unless_the_claim_is_refuted():
    x = np.arange(1.0, 9.0)
    drawn = draw(judge([claim(id="1", threshold=30.0)], record(x)), 80)
    assert "0 of 8" in drawn
    assert "refuted" in drawn
    assert "needs" not in drawn
    few = [claim("proportion", id="1", threshold=0.9)]
    assert "too few" not in draw(judge(few, record(np.zeros(8))), 80)  # refuted all the same
    assert "needs 8" in draw(judge([claim(id="1")], record(x)), 80)
    assert "too few" in draw(judge([claim(id="1")], record(x[:4])), 80)


def test_reasons_name_thresholds_with_three_digits():
    threshold = float(np.log10(2))
    assert "above 0.301 nats" in verdict_of(claim(threshold=threshold), np.ones(8)).reason
    assert "least 0.301 nats" in verdict_of(claim("exact", threshold=threshold), np.ones(8)).reason


def test_importing_the_rules_imports_nothing_heavy():
    code = (
        "import sys, dlstudy.claims, dlstudy.stats\n"
        "heavy = {'jax', 'scipy', 'xarray', 'rich', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)


# --- what no verdict may depend on -----------------------------------------------------------

WHOLE = st.integers(-6, 6)
SAMPLE = st.lists(WHOLE, min_size=1, max_size=33)
DIRECTION = st.sampled_from(["above", "below"])


@given(SAMPLE, WHOLE, DIRECTION, st.randoms(use_true_random=False))
@PROPERTY
def test_the_order_of_seeds_does_not_matter(x, threshold, direction, random):
    shuffled = random.sample(x, len(x))
    here, there = (
        verdict_of(claim(direction=direction, threshold=threshold), y) for y in (x, shuffled)
    )
    # The mean rounds differently, and these are in the order of the seeds.
    means = ("mean", "mean_low", "mean_high", "bca_low", "bca_high")
    drop = dict.fromkeys(means) | {"values": (), "labels": ()}
    assert dataclasses.replace(here, **drop) == dataclasses.replace(there, **drop)


@given(SAMPLE, WHOLE, DIRECTION)
@PROPERTY
def test_a_monotone_transform_of_statistic_and_threshold_changes_no_verdict(
    x, threshold, direction
):
    x = np.array(x, float)
    expected = verdict_of(claim(direction=direction, threshold=threshold), x)
    for transform in (np.exp, np.arctan, lambda v: v**3, lambda v: 2 * v + 1):
        got = verdict_of(
            claim(direction=direction, threshold=float(transform(float(threshold)))), transform(x)
        )
        for field in ("verdict", "beyond", "needed", "p", "p_against", "at_worst"):
            assert getattr(got, field) == getattr(expected, field)
        # Order statistics move with the transform.
        ends = transform(np.array([expected.low, expected.high]))
        if np.isfinite(expected.low):
            np.testing.assert_allclose([got.low, got.high], ends)


@given(SAMPLE, WHOLE, DIRECTION)
@PROPERTY
def test_flipping_sign_and_direction_changes_no_verdict(x, threshold, direction):
    x = np.array(x, float)
    flipped = {"above": "below", "below": "above"}[direction]
    here = verdict_of(claim(direction=direction, threshold=threshold), x)
    there = verdict_of(claim(direction=flipped, threshold=-threshold), -x)
    for field in ("verdict", "beyond", "needed", "p", "p_against", "at_half", "at_double"):
        assert getattr(here, field) == getattr(there, field)
    assert (here.low, here.high) == (-there.high, -there.low)
    mirrored = verdict_of(claim(direction=flipped, threshold=threshold), x).verdict
    swap = {"supported": "refuted", "refuted": "supported"}
    assert mirrored == swap.get(here.verdict, here.verdict)


@given(SAMPLE, st.integers(1, 6))
@PROPERTY
def test_equivalence_does_not_depend_on_the_sign(x, margin):
    within = claim(direction="within", threshold=margin)
    here, there = verdict_of(within, x), verdict_of(within, [-v for v in x])
    for field in ("verdict", "beyond", "p", "p_against", "at_half", "at_double"):
        assert getattr(here, field) == getattr(there, field)


@given(st.lists(st.booleans(), min_size=1, max_size=33), st.integers(1, 9))
@PROPERTY
def test_a_share_and_its_complement_have_one_verdict(x, tenths):
    x = np.array(x)
    here = verdict_of(claim("proportion", "above", tenths / 10), x)
    there = verdict_of(claim("proportion", "below", 1 - tenths / 10), ~x)
    for field in ("verdict", "beyond", "needed", "at_worst"):
        assert getattr(here, field) == getattr(there, field)
    assert (here.at_half, here.at_double) == (there.at_double, there.at_half)


def test_judge_follows_the_rule_that_the_simulations_test():
    rng = np.random.default_rng(0)
    for x in rng.normal(0.6, 1, (30, 20)):
        beyond, against = stats.sign_counts(x, 0, "above")
        expected = stats.sign_verdict(int(beyond), int(against), 20, "above")
        assert verdict_of(claim(), x).verdict == expected
