"""`bagging` at toy size: its exact laws, what members share, statistics, claims and settings."""

import copy
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from running import run_main

from dlstudy import models
from dlstudy.claims import judge
from dlstudy.host import Layout, NullHost
from experiments import bagging
from experiments import bagging_claims as claims
from experiments import bagging_record as records
from experiments import bagging_runs as runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
TOY = (
    "--compilation_cache_dir=", "--devices=1", "--num_seeds=2", "--train_size=60",
    "--tune_size=40", "--test_size=50", "--batch_size=20", "--width=6", "--epochs=2",
    "--rates=0.01,0.1", "--dropout_rates=0.05", "--models=3", "--counts=3", "--drops=0.2,0.5",
    "--masks=5", "--exact_units=4", "--exact_steps=20", "--exact_drop=0.3",
)  # fmt: skip


def log_softmax(z):
    z = np.asarray(z, float)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def network(params, x):
    """Logits of a network without dropout."""
    hidden = np.maximum(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"], 0)
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def main(*argv):
    return run_main(bagging, *TOY, *argv)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder, what it said, and its study, whose programs are compiled."""
    folder, made = tmp_path_factory.mktemp("bagging") / "run", []

    class Kept(runs.Study):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Study", Kept)
        status, out, err = main(f"--run_dir={folder}")
    assert status == 0, out + err
    (study,) = made
    study.host = NullHost(Layout())
    return folder, out, study


@pytest.fixture(scope="module")
def record(finished):
    return xarray.load_dataset(finished[0] / "record.nc")


@pytest.fixture(scope="module")
def study(finished):
    return finished[2]


def test_the_record_has_every_variable_with_unit_and_long_name(record):
    assert record["error"].dims == ("arm", "k", "seed")
    assert record["diverged_step"].dims == ("arm", "seed")
    assert list(record.arm.values) == list(records.ARMS)
    for name in record.data_vars:
        assert record[name].attrs["units"], name
        assert record[name].attrs["long_name"], name
    assert np.isfinite(record["error"].sel(arm=[*records.MEMBERS, "dropout"])).all()
    assert np.isfinite(record["error"].sel(arm=["wide", "small"], k=[1, 3])).all()


def test_weight_scaling_is_the_geometric_mean_of_all_masks(record):
    assert np.all(claims.geometric_gap(record) < 1e-10)
    # It is not the arithmetic one, and weights are scaled already: the mistakes are seen.
    assert np.all(
        record["regression_gap"].sel(averaging=["arithmetic mean", "scaled twice"]) > 1e-3
    )
    for name in records.SCORES:
        own, one = record[f"regression_{name}"], record[name].sel(arm="regression", k=1)
        np.testing.assert_allclose(own.sel(averaging="weight scaling"), one, rtol=1e-6)


def test_predictors_of_a_regression_are_those_of_their_names():
    rng, rate = np.random.default_rng(8), 0.3
    x, weights, bias = rng.normal(size=(6, 4)), rng.normal(0, 2, (4, 3)), rng.normal(size=(1, 3))
    masks = [(np.array(mask), np.prod([1 - rate if kept else rate for kept in mask]))
             for mask in itertools.product((0, 1), repeat=4)]  # fmt: skip
    p = np.array([softmax(x * mask / (1 - rate) @ weights + bias) for mask, _ in masks])
    chance = np.array([chance for _, chance in masks])[:, None, None]
    geometric = np.exp((chance * np.log(p)).sum(0))
    expected = {
        "weight scaling": softmax(x @ weights + bias),
        "geometric mean": geometric / geometric.sum(1, keepdims=True),
        "arithmetic mean": (chance * p).sum(0),
        "scaled twice": softmax((1 - rate) * x @ weights + bias),
    }
    with jax.enable_x64(True):
        found = runs.of_regression(lambda x: x @ weights + bias, jnp.asarray(x), rate)
    assert set(found) == set(records.REGRESSION)
    for name, values in expected.items():
        np.testing.assert_allclose(np.exp(found[name]), values, rtol=1e-10, err_msg=name)


def test_squared_errors_are_those_of_variance_and_covariance(record):
    assert np.all(claims.identity_gap(record) < 1e-5)
    one = record.isel(k=0)
    np.testing.assert_allclose(one["parts_error"], one["variance"], rtol=1e-5)
    assert np.isnan(one["covariance"]).all()
    # At equal v the error of all falls with what two errors have in common (book 7.50, 7.51).
    last, k = record.isel(k=-1), record.sizes["k"]
    line = 1 / k + (k - 1) / k * last["covariance"] / last["variance"]
    np.testing.assert_allclose(last["parts_error"] / last["variance"], line, rtol=1e-5)


def test_bytes_are_those_of_the_weights(record):
    size = lambda width: 4 * (64 * width + width + 10 * width + 10)  # noqa: E731
    own = lambda arm: record["bytes"].sel(arm=arm).values.tolist()  # noqa: E731
    assert own("bagging") == [size(6), 2 * size(6), 3 * size(6)]
    assert own("dropout") == [size(6)] * 3
    assert own("wide") == [size(6), 0, size(18)]
    assert own("small") == [size(6), 0, 3 * size(2)]
    np.testing.assert_array_equal(claims.byte_ratio(record), 0)
    cost = record["gradients"].sel(arm=["bagging", "dropout", "wide"]).values.tolist()
    assert cost == [[120, 240, 360], [120, 240, 360], [120] * 3]
    # Two epochs of 60 examples, all weights of all networks.
    cost = record["training_cost"].sel(k=[1, 3])
    own = lambda arm: cost.sel(arm=arm).values.tolist()  # noqa: E731
    one = 120 * size(6) // 4
    assert own("bagging") == own("dropout") == [one, 3 * one]
    assert own("wide") == [one, 120 * size(18) // 4]
    assert own("small") == [one, 3 * 120 * size(2) // 4]
    assert own("regression") == [60 * 20 * (4 + 1) * 10] * 2


def test_members_that_share_everything_are_one_model(study):
    found, width = {}, np.full(2, study.config.width, np.float32)
    for name, own in {"same": (False,) * 3, **records.MEMBERS}.items():
        arm = np.array([own, own]), width
        found[name] = jax.device_get(study.separate(study.keys, *arm, study.splits))
        kernel = found[name][1]["head"]["kernel"]
        assert (kernel[:, 0] == kernel[:, 1]).all() == (name == "same"), name
    row, params = found["same"]
    assert (row["disagreement"] == 0).all()
    np.testing.assert_allclose(row["test_error"], row["test_error"][:, :, :1] + 0 * row["variance"])
    # One model trained on the whole set, whatever else its ensemble varies.
    for name in ("init", "order", "init_order"):
        first = found[name][1]["head"]["kernel"][:, 0]
        np.testing.assert_array_equal(first, params["head"]["kernel"][:, 0], err_msg=name)
    ratio = runs.zlib_ratio(params)
    assert np.all(ratio < 2)  # three copies of one model compress into little more than one
    check_members(study, *found["bagging"])


def check_members(study, row, params):
    """Scores and diversity of ensembles of the members whose parameters are known, in NumPy."""
    middle, (x, y) = len(study.config.rates) // 2, jax.device_get(study.splits.test)
    # Of the second seed.
    own = [jax.tree.map(lambda a, i=i: a[1, i], params) for i in range(study.config.models)]
    p = np.array([softmax(network(one, x[1])) for one in own])
    check_ensembles({n: v[1, middle] for n, v in row.items() if n != "loss"}, p, y[1])


def check_ensembles(row, p, y):
    """A row of `examined` against members' probabilities p [K, N, C]."""
    right = np.eye(p.shape[2])[y]
    off = p - right
    both = np.array([[(a * b).sum(1).mean() for b in off] for a in off])
    count = len(p)
    for k in range(1, count + 1):
        rows = [[(start + i) % count for i in range(k)] for start in range(count)]
        means = np.array([p[own].mean(0) for own in rows])
        pairs = [both[i, j] for own in rows for i in own for j in own if i != j]
        expected = {
            "test_error": (means.argmax(2) != y).mean(),
            "test_negative_log_likelihood": -np.log((means * right).sum(2)).mean(),
            "test_squared_error": np.square(means - right).sum(2).mean(),
            "variance": np.diag(both).mean(),
            "covariance": np.mean(pairs) if pairs else np.nan,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(row[name][k - 1], value, rtol=2e-4, err_msg=f"{name} {k}")
    misses, others = p.argmax(2) != y, np.triu_indices(count, 1)
    apart = np.mean(
        [(p[i].argmax(1) != p[j].argmax(1)).mean() for i, j in zip(*others, strict=True)]
    )
    assert row["disagreement"] == pytest.approx(apart, rel=1e-5)
    assert row["correlation"] == pytest.approx(np.corrcoef(misses)[others].mean(), rel=1e-4)


def test_masks_are_compared_with_the_predictors_of_their_names(study):
    """Two seeds' networks, each with its condition; everything but the masks in NumPy."""
    config, bound = study.config, 4.0
    params = jax.tree.map(lambda a: bound * a, study.begun(study.keys, study.splits).params)
    chosen, each = np.array([1, 0], np.int32), np.array([[0, 1]] * 2, np.int32)
    row = jax.device_get(study.monte_carlo(params, study.keys, chosen, each, study.splits))
    found = records.of_masks(row, lambda unit, words: {})
    seed, (x, y) = 0, jax.tree.map(lambda a: np.asarray(a[0]), study.splits.test)
    own = jax.tree.map(lambda a: np.asarray(a[seed, chosen[seed]]), params)
    drop = config.drops[chosen[seed]]
    key, model = jax.random.fold_in(study.keys[seed], runs.MASKS), study.model(config.width)
    log_p = np.array([
        log_softmax(model.apply({"params": own}, x, dropout=models.Dropout(key, drop, 0.1))[0])
        for key in jax.random.split(key, config.masks)
    ])  # fmt: skip
    p, right = np.exp(log_p), np.eye(10)[y]
    geometric, arithmetic = np.exp(log_softmax(log_p.mean(0))), p.mean(0)
    keep = {"hidden_0": 0.9, "head": 1 - drop}
    twice = {n: v | {"kernel": keep[n] * v["kernel"]} for n, v in own.items()}
    predictors = {
        "weight scaling": softmax(network(own, x)),
        "scaled twice": softmax(network(twice, x)),
        "geometric mean": geometric,
    }
    means = {m: p[:m].mean(0) for m in records.mask_counts(config)}
    for dim, names in (("predictor", predictors), ("mask", means)):
        for i, (name, q) in enumerate(names.items()):
            assert dim == "mask" or records.PREDICTORS[i] == name
            expected = {
                "error": (q.argmax(1) != y).mean(),
                "negative_log_likelihood": -np.log((q * right).sum(1)).mean(),
                "squared_error": np.square(q - right).sum(1).mean(),
                "distance": np.square(q - arithmetic).sum(1).mean(),
                "geometric_distance": np.square(q - geometric).sum(1).mean(),
            }
            for score, value in expected.items():
                np.testing.assert_allclose(found[f"{dim}_{score}"][1][i, seed], value, rtol=1e-3,
                                           atol=1e-9, err_msg=f"{name} {score}")  # fmt: skip
    # The noise that claims take off: the variance of the mean of so many independent masks.
    spread = p.var(0, ddof=1).sum(1).mean()
    np.testing.assert_allclose(row["mask_variance"][seed], spread, rtol=1e-4)
    np.testing.assert_allclose(row["mask_noise"][seed], spread / config.masks, rtol=1e-4)
    # Masks as members: the first condition's network, which was not the chosen one.
    own = jax.tree.map(lambda a: np.asarray(a[seed, 0]), params)
    p = np.exp([
        log_softmax(model.apply({"params": own}, x, dropout=models.Dropout(key, 0.2, 0.1))[0])
        for key in jax.random.split(key, config.models)
    ])  # fmt: skip
    masks = {n.removeprefix("masks_"): v[seed, 0] for n, v in row.items() if n.startswith("masks_")}
    check_ensembles(masks, p, y)


def test_narrow_members_have_no_more_units_than_asked_for(study):
    _, params = jax.device_get(study.separate(study.keys, *study.arm("small_3"), study.splits))
    used = np.abs(params["hidden_0"]["kernel"]).max((0, 1, 2)) > 0
    assert used.tolist() == [True, True, False, False, False, False]


@pytest.mark.usefixtures("without_figures")
def test_a_seed_does_not_depend_on_the_others(record, study):
    """Seed 1 twice, in the place of seeds 0 and 1; every program was traced once for both runs."""
    again = copy.copy(study)
    twice = np.array([1, 1])
    again.keys, again.splits = jax.tree.map(lambda a: a[twice], (study.keys, study.splits))
    alone = runs.assembled(again, [1, 1])
    for name in record.data_vars:
        expected = record[name].sel(seed=[1, 1]) if "seed" in record[name].dims else record[name]
        np.testing.assert_array_equal(alone[name], expected, err_msg=name)
    programs = (study.separate, study.dropout, study.monte_carlo, study.wide[3], study.regressions)
    assert [program.traces for program in programs] == [1] * 5


def test_the_folder_holds_figures_and_verdicts(finished):
    folder, out, _ = finished
    for name in ("exact", "masks", "error", "diversity", "table"):
        assert (folder / "figures" / f"{name}.svg").stat().st_size > 1000
    for claim in ("3.2a", "3.2b", "3.2c", "3.2d"):
        assert claim in out


def test_figures_are_drawn_when_everything_is_lost(record):
    lost = record.copy(deep=True)
    for name in lost.data_vars:
        if lost[name].dtype.kind == "f":
            lost[name] = lost[name] * np.nan
    for name, figure in bagging.figures(lost):
        figure.canvas.draw()
        assert figure.axes[0].get_title(loc="left"), name
    # Bytes are known without training.
    assert {v.verdict for v in judge(bagging.CLAIMS, lost)} <= {"inconclusive", "supported"}


# --- choices and statistics on numbers that are known


def test_conditions_are_chosen_by_tuning_error_then_likelihood():
    row = {
        "tune_error": [[0.2, 0.1, 0.1], [0.1, np.inf, 0.3]],
        "tune_negative_log_likelihood": [[0.1, 0.5, 0.4], [np.nan, 0.1, 0.2]],
    }
    index = records.best(row)
    assert index.tolist() == [2, 0]
    np.testing.assert_array_equal(
        records.at(np.arange(12).reshape(2, 3, 2), index), [[4, 5], [6, 7]]
    )
    config = bagging.Config(dropout_rates=(0.1, 0.2), drops=(0.3, 0.4))
    row = {
        "tune_error": [[0.2, 0.1, 0.1, 0.3]],  # rates are the slower index
        "tune_negative_log_likelihood": [[0.1] * 4],
    }
    assert records.conditions(config)[:, 2].tolist() == [0.2, 0.3]
    assert records.best_of_shares(config, row).tolist() == [[2, 1]]
    loss = np.array([[1, 2, 3], [1, np.nan, np.inf]])
    assert records.first_lost(loss).tolist() == [-1, 1]


def example(seeds=20):
    """Members, arms and masks whose statistics can be read off."""
    arms, k = list(records.ARMS), [1, 4]
    sources = [*records.MEMBERS, "masks 0.2", "masks 0.5"]
    put = lambda rows: np.repeat(np.array(rows, float)[..., None], seeds, -1)  # noqa: E731
    error = put([[0.12, 0.07], [0.11, 0.08], [0.09, 0.085], [0.09, 0.088], [0.09, 0.08],
                 [0.1, 0.08], [0.1, 0.06], [0.12, 0.15], [0.3, np.nan]])  # fmt: skip
    v = np.full(7, 0.2)
    c = np.array([0.1, 0.12, 0.16, 0.18, 0.14, 0.15, 0.1])
    variables = {
        "error": (("arm", "k", "seed"), error),
        "tune_error": (("arm", "k", "seed"), error),
        "drop": (("arm", "k", "seed"), np.full_like(error, 0.5)),
        "negative_log_likelihood": (("arm", "k", "seed"), error * 3),
        "variance": (("sources", "k", "seed"), put(np.stack([v, v], 1))),
        "covariance": (("sources", "k", "seed"), put(np.stack([v * np.nan, c], 1))),
        "parts_error": (("sources", "k", "seed"), put(np.stack([v, v / 4 + 0.75 * c], 1))),
        "members_error": (("sources", "k", "seed"), put(
            [[0.13, 0.07], [0.1, 0.06], [0.1, 0.085], [0.1, 0.09], [0.1, 0.08],
             [0.1, 0.08], [0.15, 0.09]])),
        "vote_error": (("sources", "seed"), put([0.08] * 7)),
        "vote_negative_log_likelihood": (("sources", "seed"), put([0.5] * 7)),
        "disagreement": (("sources", "seed"), put([0.1, 0.08, 0.04, 0.02, 0.06, 0.3, 0.2])),
        "correlation": (("sources", "seed"), put([0.2, 0.4, 0.7, 0.8, 0.5, 0.9, 0.3])),
        "zlib_ratio": (("seed",), put(4.02)),
        "bytes": (("arm", "k"), np.array([[10, 40]] * 5 + [[10, 10]] * 4)),
        "mask_error": (("masks", "seed"), put([0.2, 0.09])),
        "mask_negative_log_likelihood": (("masks", "seed"), put([0.5, 0.3])),
        "mask_variance": (("seed",), put(0.1)),
        "mask_noise": (("seed",), put(0.001)),
        "predictor_error": (("predictor", "seed"), put([0.092, 0.1, 0.09])),
        "predictor_negative_log_likelihood": (("predictor", "seed"), put([0.29, 0.4, 0.3])),
        "predictor_distance": (("predictor", "seed"), put([0.006, 0.02, 0.005])),
        "predictor_geometric_distance": (("predictor", "seed"), put([0.001, 0.02, 0.005])),
        "regression_gap": (("averaging", "seed"), put([0, 1e-13, 1, 2])),
    }  # fmt: skip
    coords = {
        "arm": arms, "sources": sources, "k": k, "masks": [1, 9], "seed": np.arange(seeds),
        "predictor": list(records.PREDICTORS), "averaging": list(records.REGRESSION),
    }  # fmt: skip
    return xarray.Dataset(variables, coords, {"counts": [4], "drops": [0.2, 0.5]})


EXPECTED = {
    claims.geometric_gap: 1e-13,
    claims.error_above_masks: 0.002,
    claims.likelihood_above_masks: -0.01,
    claims.distance_over_variance: 0.05,
    claims.geometric_over_arithmetic: 0.2,
    claims.identity_gap: 0,
    claims.neighbour_gap: 0,
    claims.gain_of_bagging: 0.05,
    claims.gain_of_order: 0.002,
    claims.gain_on_whole_set: 0.02,
    claims.dropout_same_compute: 0.01,
    claims.dropout_any_compute: 0.01,
    claims.dropout_same_parameters: -0.01,
    claims.dropout_same_small: -0.05,
    claims.byte_ratio: 0,
    claims.zlib_ratio: 0.02,
    claims.members_disagree: 0.1,
    # Gains 6, 4, 1.5, 1 and 2 points: in the order of disagreement, against that of correlation.
    claims.gain_with_diversity: 1,
    claims.gain_with_correlation: -1,
    claims.gain_with_mask_diversity: -1,
    claims.error_with_diversity: -0.9,
    claims.error_with_diversity_on_whole_set: -1,
    claims.vote_over_mean: 0.01,
    claims.vote_over_mean_likelihood: 0.29,
    claims.masks_disagree: 0.2,
    claims.gain_of_masks: 0.06,
}


@pytest.mark.parametrize("statistic", EXPECTED, ids=lambda s: s.__name__)
def test_a_statistic_is_the_number_read_off(statistic):
    found = np.asarray(statistic(example()), float)
    assert found.shape == (20,)
    np.testing.assert_allclose(found, EXPECTED[statistic], rtol=1e-9, atol=1e-12)


def test_a_distance_that_noise_hides_is_no_evidence():
    record = example()
    record["mask_noise"] = record["mask_noise"] + [0.006, *[0] * 19]  # more than the distance
    found = claims.geometric_over_arithmetic(record)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], 0.2)


def test_masks_are_those_of_the_share_that_was_chosen():
    record = example(3)
    record["drop"][:] = np.float32([0.5, 0.2, np.nan])
    np.testing.assert_array_equal(claims.masks_disagree(record), [0.2, 0.3, np.nan])


def test_verdicts_follow_the_record():
    found = {v.id: v.verdict for v in judge(bagging.CLAIMS, example())}
    assert found["3.2b2"] == found["3.2c"] == "conditional"
    for claim in ("3.2a", "3.2b1", "3.2b3", "3.2d8", "3.2e"):
        assert found[claim] == "supported", claim
    assert found["3.2b4"] == found["3.2b"] == found["3.2d9"] == "refuted"


# --- settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--drops=1"], "drops=1: each must be greater than 0 and less than 1"),
        (["--drops=0,0.5"], "drops=0,0.5: each must be greater than 0"),
        (["--input_drop=-0.1"], "input_drop=-0.1: must be at least 0"),
        (["--exact_drop=1"], "exact_drop=1: must be at least 0 and less than 1"),
        (["--exact_units=13"], "exact_units=13: must be at least 1 and at most 12"),
        (["--rates=0"], "rates=0: each must be greater than 0"),
        (["--rates=0.1,0.01"], "--rates=0.1,0.01: must rise"),
        (["--rates="], "--rates=: must hold at least one number"),
        (["--dropout_rates=-1"], "each must be greater than 0"),
        (["--models=1"], "models=1: must be at least 2"),
        (["--counts=6"], "--counts=6: must be at most --models=3"),
        (["--models=5", "--counts=5"], "--counts=5: must divide --width=6"),
        (["--batch_size=61"], "--batch_size=61: must be at most 60"),
        (["--test_size=1700"], "at most 1797 images, not 1800"),
        (["--data=mnist"], "digits"),
        (["--masks=1"], "masks=1: must be at least 2"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, words, tmp_path):
    folder = tmp_path / "run"
    status, _, err = main(f"--run_dir={folder}", *argv)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not folder.exists()
