"""The record of `bagging`: choices by the tuning split; names, units and axes."""

import numpy as np

from dlstudy import ensembles

# Arms of separately trained models: whether each has rows, start and order of its own.
MEMBERS = {
    "bagging": (True, True, True),
    "bootstrap": (True, False, False),
    "init": (False, True, False),
    "order": (False, False, True),
    "init_order": (False, True, True),
}
ARMS = (*MEMBERS, "dropout", "wide", "small", "regression")  # the last has no ensembles of k
REGRESSION = ("weight scaling", "geometric mean", "arithmetic mean", "scaled twice")
PREDICTORS = ("weight scaling", "scaled twice", "geometric mean")  # of the dropout network

BY_COUNT = {  # of ensembles of k members: what a row calls it -> (name, meaning)
    "test_error": ("members_error", "test error of the mean probabilities"),
    "test_squared_error": ("parts_error", "squared error of the mean probabilities"),
    "variance": ("variance", "v: squared error of one member, mean over members"),
    "covariance": ("covariance", "c: product of two members' errors, mean over pairs"),
}

SCORES = {
    "error": ("1", "share of test images misclassified"),
    "negative_log_likelihood": ("nat", "negative log likelihood of a test image"),
    "squared_error": ("1", "squared error of the probabilities, summed over classes"),
    "calibration_error": ("1", "expected calibration error"),
}
TUNING = ("error", "negative_log_likelihood")  # what choices are made by
DIVERSITY = {  # of all members together
    "vote_error": ("1", "test error of the majority vote"),
    "vote_negative_log_likelihood": ("nat", "negative log likelihood of the shares of votes"),
    "vote_calibration_error": ("1", "expected calibration error of the shares of votes"),
    "disagreement": ("1", "share of test images that two members classify differently"),
    "correlation": ("1", "correlation of two members' errors, 0 or 1 an image"),
}
OF_MASKS = {
    "mask_noise": ("1", "squared standard error of the mean over masks, summed over classes"),
    "mask_variance": ("1", "variance of the probabilities over masks, summed over classes"),
}


def masks_of(config) -> dict[str, int]:
    """Random masks as members, for each share of hidden units dropped: {source: number}."""
    return {f"masks {drop:g}": i for i, drop in enumerate(config.drops)}


def separate(config) -> dict[str, tuple]:
    """Arms of separately trained models: (what each has of its own, units of its hidden layer)."""
    found = {name: (own, np.float32(config.width)) for name, own in MEMBERS.items()}
    # 1/k of the units, k models: as many weights as one network.
    return found | {
        f"small_{k}": ((True, True, True), np.float32(config.width // k)) for k in config.counts
    }


def mask_counts(config) -> list[int]:
    """How many masks are averaged: powers of two, then all of them."""
    return [*(2**i for i in range(20) if 2**i < config.masks), config.masks]


def best(row: dict, axis: int = 1) -> np.ndarray:
    """Index of the condition with the lowest tuning error, ties by likelihood."""
    loss = np.asarray(row["tune_negative_log_likelihood"], float)
    loss = np.where(np.isfinite(loss), np.minimum(loss, 1e3), 1e3)
    return (np.asarray(row["tune_error"], float) + 1e-6 * loss).argmin(axis)


def best_of_shares(config, row: dict) -> np.ndarray:
    """Index of the condition with the lowest tuning error at each share dropped, int[S, shares]."""
    grid = (len(config.dropout_rates), len(config.drops))
    own = {name: np.asarray(row[f"tune_{name}"]) for name in TUNING}
    rate = best({f"tune_{n}": v.reshape(len(v), *grid) for n, v in own.items()})
    return rate * grid[1] + np.arange(grid[1])


def at(values, index) -> np.ndarray:
    """values [S, Q, ...] at index [S] or [S, ...]: [S, ...]."""
    values = np.asarray(values)
    index = index.reshape(*index.shape, *[1] * (values.ndim - 1 - index.ndim))
    return np.take_along_axis(values, index[:, None], 1)[:, 0]


def first_lost(loss: np.ndarray) -> np.ndarray:
    """First step [S] whose loss [S, T] is not finite; -1: there is none."""
    bad = ~np.isfinite(loss)
    return np.where(bad.any(1), bad.argmax(1), -1)


def conditions(config) -> np.ndarray:
    """Rates and shares of the dropout networks, [2, Q]."""
    return np.array(np.meshgrid(config.dropout_rates, config.drops, indexing="ij")).reshape(2, -1)


def of_arms(config, rows: dict):
    """Scores, tuning error, chosen rate and share: {name: [A, K, S]}; and lost steps [A, S]."""
    count, seeds = config.models, len(rows["regression"]["regression_gap"])
    names = (*SCORES, "tune_error", "rate", "drop")
    found = {name: np.full((len(ARMS), count, seeds), np.nan, np.float32) for name in names}
    lost = np.full((len(ARMS), seeds), -1)
    lost[-1] = np.where(np.isfinite(rows["regression"]["regression_gap"]).all(1), -1, 0)
    grid = conditions(config)

    def put(arm, k, row, rates, drops):
        """Row values [S, Q] of an arm's ensemble of k."""
        index, place = best(row), (ARMS.index(arm), k - 1)
        for name in SCORES:
            found[name][place] = at(row[f"test_{name}"], index)
        found["tune_error"][place] = at(row["tune_error"], index)
        found["rate"][place], found["drop"][place] = rates[index], drops[index]
        lost[place[0]] = first_lost(at(row["loss"], index))

    members, separate = (
        rows["members"],
        (np.array(config.rates), np.full(len(config.rates), np.nan)),
    )
    for arm in MEMBERS:
        for k in range(1, count + 1):
            put(arm, k, of_count(members[arm], k), *separate)
    for k, row in enumerate(rows["dropout"], 1):
        put("dropout", k, row, *grid)
    for name in SCORES:
        found[name][-1, 0] = rows["regression"][f"regression_{name}"][:, 0]
    put("wide", 1, rows["dropout"][0], *grid)
    put("small", 1, of_count(members["bagging"], 1), *separate)
    for k in config.counts:
        put("wide", k, rows[f"wide_{k}"], *grid)
        put("small", k, of_count(members[f"small_{k}"], k), *separate)
    return found, lost


def of_count(row: dict, k: int) -> dict:
    """A row of separately trained models, for ensembles of k: [S, R, K] -> [S, R]."""
    tested = {n for n in row if n.startswith(("tune_", "test_"))}
    return {n: np.asarray(v)[:, :, k - 1] if n in tested else v for n, v in row.items()}


def of_members(config, rows: dict):
    """What is measured of each kind of members: models, then masks of the dropout networks.

    Models at the rate best for all of them together, whatever k; masks at the rate best for the
    share dropped, after the longest training.

    Returns:
      {name: [sources, K, S]} of `BY_COUNT`, {name: [sources, S]} of `DIVERSITY`.
    """
    both = []
    for row in (rows["members"][name] for name in MEMBERS):
        index = best(of_count(row, config.models))
        both.append({name: at(row[name], index) for name in (*BY_COUNT, *DIVERSITY)})
    masks = rows["dropout"][-1]
    both += [
        {name: np.asarray(masks[f"masks_{name}"])[:, i] for name in (*BY_COUNT, *DIVERSITY)}
        for i in masks_of(config).values()
    ]
    by_count = {name: np.stack([row[source].T for row in both]) for source, (name, _) in
                BY_COUNT.items()}  # fmt: skip
    return by_count, {name: np.stack([row[name] for row in both]) for name in DIVERSITY}


def gradients(config) -> dict[str, np.ndarray]:
    """Gradients of single examples that each arm's training takes, [K]."""
    one = ensembles.gradient_evaluations(config.train_size, config.batch_size, config.epochs)
    number = np.arange(1, config.models + 1)
    found = {arm: one * number for arm in ARMS}
    found["wide"] = np.full(config.models, one)
    found["regression"] = np.full(config.models, config.train_size * config.exact_steps)
    return found


def training_cost(config, sizes: dict, passes: dict) -> dict[str, np.ndarray]:
    """Gradients of single examples times weights of a network, [K]: what training computes."""
    weights = {arm: size // (8 if arm == "regression" else 4) for arm, size in sizes.items()}
    many = {arm: 1 if arm in ("dropout", "wide", "regression") else np.arange(1, config.models + 1)
            for arm in ARMS}  # fmt: skip
    return {arm: passes[arm] * (weights[arm] // many[arm]) for arm in ARMS}


def assemble(config, seeds, rows: dict, sizes: dict):
    """The record, an `xarray.Dataset` over arm, k and seed.

    `sources`: kinds of members, the separately trained arms and the masks of each share dropped.

    Args:
      config: the settings.
      seeds: indices of the seeds.
      rows: by stage, as `bagging_runs` collects them.
      sizes: bytes by number of models for each arm, see `Study.sizes`.
    """
    import xarray

    about = lambda unit, words: {"units": unit, "long_name": words}  # noqa: E731
    scores, lost = of_arms(config, rows)
    words = SCORES | {
        "tune_error": ("1", "share of tuning images misclassified"),
        "rate": ("1", "learning rate with the lowest tuning error"),
        "drop": ("1", "share of hidden units dropped with the lowest tuning error"),
    }
    variables = {n: (("arm", "k", "seed"), v, about(*words[n])) for n, v in scores.items()}
    parts, diversity = of_members(config, rows)
    for name, long in BY_COUNT.values():
        more = "; mean over windows of k members, at the rate best for all of them"
        variables[name] = ("sources", "k", "seed"), parts[name], about("1", long + more)
    for name, values in diversity.items():
        variables[name] = ("sources", "seed"), values, about(*DIVERSITY[name])
    variables["zlib_ratio"] = ("seed",), rows["members"]["bagging"]["zlib_ratio"], about(
        "1", "bytes of the arrays of all bagged models over those of one, compressed by zlib"
    )  # fmt: skip
    passes = gradients(config)
    for name, table, unit, long in (
        ("bytes", sizes, "byte", "bytes of the parameter arrays; 0: not run"),
        ("gradients", passes, "1", "gradients of single examples taken in training"),
        ("training_cost", training_cost(config, sizes, passes), "1",
         "gradients of single examples times weights of the network each passes through"),
    ):  # fmt: skip
        values = np.stack([table[arm] for arm in ARMS]).astype(np.int64)
        variables[name] = ("arm", "k"), values, about(unit, long)
    variables |= of_masks(rows["dropout"][-1], about)
    regression = rows["regression"]
    for name, dims, unit, long in (
        ("regression_gap", (), "nat", "largest difference in log-probability from weight scaling"),
        *((f"regression_{score}", (), *words) for score, words in SCORES.items()),
        ("regression_log_p", ("image",), "nat", "log-probability of the right class"),
    ):
        values = np.moveaxis(regression[name], 0, -1)
        variables[name] = ("averaging", *dims, "seed"), values, about(unit, long)
    variables["diverged_step"] = (
        ("arm", "seed"), lost.astype(np.int32),
        about("1", "first step with a loss that is not finite, at the chosen rate; -1: none"),
    )  # fmt: skip
    coords = {
        "arm": list(ARMS),
        "sources": [*MEMBERS, *masks_of(config)],
        "k": np.arange(1, config.models + 1),
        "masks": mask_counts(config),
        "predictor": list(PREDICTORS),
        "averaging": list(REGRESSION),
        "seed": seeds,
    }
    attributes = {
        "data": config.data, "counts": list(config.counts), "rates": list(config.rates),
        "drops": list(config.drops), "input_drop": config.input_drop,
        "exact_units": config.exact_units, "exact_drop": config.exact_drop,
        "train_size": config.train_size, "width": config.width, "epochs": config.epochs,
    }  # fmt: skip
    return xarray.Dataset(variables, coords, attributes)


def of_masks(row: dict, about) -> dict:
    """Variables of Monte Carlo dropout."""
    found = {name: (("seed",), row[name], about(*words)) for name, words in OF_MASKS.items()}
    distances = {
        "distance": ("1", "squared distance from the mean over all masks, that mean's noise in it"),
        "geometric_distance": ("1", "squared distance from the geometric mean over all masks"),
    }
    for name, words in (SCORES | distances).items():
        for of, dim in (("predictor", "predictor"), ("mask", "masks")):
            values = np.asarray(row[f"{of}_{name}"]).T
            found[f"{of}_{name}"] = (dim, "seed"), values, about(*words)
    return found
