"""The report's page as a text: complete, well formed, and safe whatever the records hold."""

import dataclasses
import html
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import toy_report as toy
from PIL import Image

from dlstudy.claims import judge
from experiments import (
    ledger,
    mnist_gradnorm_charts,
    relu_regions_charts,
    report,
    report_charts,
    report_listing,
    report_pictures,
)
from experiments.relu_regions_record import layers_of, pieces_of, unflatten

BAD = "</script><img src=x onerror=alert(1)>\u2028&amp;"
VOID = {"meta", "link", "img", "input", "br", "source"}


class Page(HTMLParser):
    """Every element with its attributes and text, and whether all were closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.errors = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def every(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.elements
                if name == tag]  # fmt: skip

    def by_id(self, id):
        (found,) = [e for e in self.elements if e[1].get("id") == id]
        return found[1], " ".join(" ".join(found[2]).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("report") / "runs")


@pytest.fixture(scope="module")
def text(made):
    return report.render(made)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def verdicts_of(found):
    return [(e, v) for e in found.entries for v in e.verdicts]


def assert_sound(page):
    """What holds for every page."""
    assert not page.errors
    assert not page.open
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "srcset", "href", "action"):
            address = attributes.get(name)
            if address is None:
                continue
            assert not re.match(r"(?i)\s*(https?:|//|javascript:)", address), address
            if "#" in address and not address.startswith("data:"):
                assert urlsplit(address).fragment in ids, address
        if tag == "img":
            assert attributes["src"].startswith("data:image/")
            assert attributes["alt"].strip()
    for _, style in page.every("style"):
        assert "url(" not in style
        assert "@import" not in style
    assert len(page.every("script")) == 3


def test_the_page_is_sound_and_loads_nothing(page, text):
    assert_sound(page)
    policy = next(a["content"] for a, _ in page.every("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy
    assert len(text.encode()) < 10_000_000


def test_headings_go_down_one_step_at_a_time(page):
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_every_claim_has_a_row_and_a_section_with_its_verdict(page, made):
    rows = {re.match(r"\s*(\S+)", t)[1]: (a, t) for a, t in page.every("tr") if "data-verdict" in a}
    assert len(rows) == len(verdicts_of(made))
    for entry, verdict in verdicts_of(made):
        attributes, row = rows[verdict.id]
        assert attributes["data-verdict"] == verdict.verdict
        assert verdict.verdict in row
        assert verdict.sentence in row
        _, section = page.by_id(f"{entry.name}-{verdict.id}")
        assert section.startswith(f"{verdict.id} {verdict.sentence}")
        assert verdict.verdict in section
        if verdict.kind != "compound":
            assert verdict.threshold_reason in section
            assert " ".join(verdict.reason.split())[1:] in section


def test_a_section_tells_control_reading_oracle_trap_and_seeds_left_out(page):
    _, section = page.by_id("toy_regions-0.1b")
    assert "Holds here, fails there." in section
    _, reading = page.by_id("toy_regions-0.2")
    assert "as the source has it" in reading
    assert "It is low, says the book" in reading
    _, high = page.by_id("toy_regions-0.1a")
    for words in ("Oracle 2", "Trap none", "seed 4", "diverged", "at half the threshold",
                  "AMD EPYC, 2 cores",
                  "python -m experiments.toy_regions --flagfile=toy.txt"):  # fmt: skip
        assert words in high
    _, few = page.by_id("toy_regions-0.3")
    assert "∞" in few


def test_counts_in_the_summary_are_the_ledgers(page, made):
    counts = ledger.counts(made)
    tiles = [" ".join(t.split()) for a, t in page.every("li") if "tile" in a.get("class", "")]
    for (word, count), tile in zip(counts.items(), tiles, strict=True):
        assert tile.startswith(str(count))
        assert word in tile
    (lead,) = [t for a, t in page.every("p") if a.get("class") == "lead"]
    for word, count in counts.items():
        assert (f"{count} {word}" in lead) == (count > 0)
    assert f"{sum(counts.values())} sentences" in lead
    assert "2 of 2 experiments finished" in lead
    assert "20 seeds" in lead


def test_numbers_and_code_are_two_clicks_from_a_verdict(page, made, text):
    lines = {a["id"]: t for a, t in page.every("span") if a.get("id", "").startswith("code-")}
    anchors = [a["href"][1:] for a, _ in page.every("a") if a.get("href", "")[1:] in lines]
    for _, verdict in verdicts_of(made):
        if verdict.kind == "compound":
            continue
        place = report.code_anchor(verdict.code)
        assert place in anchors
        name = verdict.statistic.rpartition(".")[2]
        assert re.match(rf"\d+def {name}\(record\):", lines[place])
    home = made.runs_dir / "report"
    files = {unquote(a["href"]) for a, t in page.every("a") if "record.nc" in a.get("href", "")}
    assert len(files) == 2
    for file in files:
        assert (home / file).resolve().is_file()


def test_a_figure_is_embedded_once_and_named_by_its_claims(page, text):
    images = page.every("img")
    assert len(images) == 3
    for attributes, _ in images:
        assert text.count(attributes["src"]) == 1
    assert {a["alt"] for a, _ in images} == {f"The {n} falls" for n in ("curve", "second", "third")}
    links = [a["href"] for a, t in page.every("a") if t == "Figure"]
    assert links == ["#toy_regions-figure-curve", "#toy_steps-figure-second"]


def test_charts_have_their_specifications(page, text):
    specs = json.loads(next(t for a, t in page.every("script") if a.get("id") == "specs"))
    places = [a["data-chart"] for a, _ in page.every("div") if "data-chart" in a]
    assert set(places) == specs["charts"].keys() - {"strip"}
    assert "toy_regions-chart-regions" in places
    assert "toy_steps-chart-taylor_steps" in places
    assert "http" not in json.dumps(specs)


def test_a_run_made_with_another_version_says_so(page):
    assert "Made with another version of: code." in page.by_id("toy_steps")[1]
    assert "another version" not in page.by_id("toy_regions")[1]


# ---------------------------------------------------------------------------- bad input


def test_hostile_text_is_shown_as_text(tmp_path):
    its = (
        toy.claim("0.1", BAD, toy.low, "below", reason=BAD, unit=BAD, section=BAD, trap=BAD,
                  oracle=BAD, condition=BAD, arms=("main",), figure="curve",
                  control=toy.claim("0.1", BAD, toy.low, "below", condition=BAD)),
        toy.claim("0.2<b>", "another", toy.low),
        toy.claim("0.2(b)", "with the same anchor", toy.low),
    )  # fmt: skip
    bad = json.loads(json.dumps(toy.MANIFEST))
    bad["environment"] |= {"cpu": BAD, "commit": BAD, "packages": {BAD: BAD}}
    bad |= {"flags": [BAD], "status": BAD, "seconds": BAD, "finished": BAD}
    name = '"><img src=x onerror=alert(1)>'
    folder = toy.run_folder(tmp_path / "runs" / 'bad "><script>' / "one", (name, "curve"), bad)
    module = toy.experiment("bad", its)
    module.__doc__ = f"{BAD}\n\n{BAD} `{BAD}`\n\n    {BAD}"
    entry = toy.entry(module, folder, flags=(BAD,), problem=BAD, stale=(BAD,))
    text = report.render(toy.of(tmp_path / "runs", entry))
    page = Page(text)
    assert_sound(page)
    assert "<img src=x" not in text
    # The sentence, as text, in its row and its section, and in the chart's own data.
    assert sum(BAD in t for _, t in page.every("th")) >= 1
    assert sum(BAD in t for _, t in page.every("h4")) == 1
    specs = json.loads(next(t for a, t in page.every("script") if a.get("id") == "specs"))
    assert BAD in json.dumps(specs, ensure_ascii=False)
    assert any(name in a["alt"] for a, _ in page.every("img"))


def test_data_blocks_are_read_back_as_they_were():
    value = {BAD: [1.5, None, "\u2029<!--", {"é": "]]>"}]}
    block = report.data_block(value)
    assert not re.search("[<>&\u2028\u2029]", block)
    assert json.loads(block) == value


@pytest.mark.parametrize("status", ["no record", "damaged", "unfinished", "failed"])
def test_without_a_record_the_page_says_the_problem(status, tmp_path):
    module = toy.experiment("gone", toy.CLAIMS, relu_regions_charts.charts)
    entry = ledger.Entry("gone", module, (), status, problem="there is <no> run",
                         verdicts=judge(toy.CLAIMS, None))  # fmt: skip
    page = Page(report.render(toy.of(tmp_path, entry)))
    assert_sound(page)
    _, section = page.by_id("gone")
    assert "there is <no> run" in section
    for _, verdict in [(e, v) for e in [entry] for v in e.verdicts]:
        assert "inconclusive" in page.by_id(f"gone-{verdict.id}")[1]
    (lead,) = [t for a, t in page.every("p") if a.get("class") == "lead"]
    assert f"gone ({status})" in lead
    assert "0 of 1 experiment finished" in lead


def test_an_empty_ledger_and_one_not_asked_for_have_pages(tmp_path):
    assert_sound(Page(report.render(ledger.Ledger("quick", "never", tmp_path, ()))))
    entry = ledger.Entry("later", toy.experiment("later", toy.CLAIMS), (), "not run")
    page = Page(report.render(toy.of(tmp_path, entry)))
    assert_sound(page)
    (lead,) = [t for a, t in page.every("p") if a.get("class") == "lead"]
    assert "not asked for: later" in lead


@pytest.mark.parametrize("manifest", [
    {}, {"environment": None, "flags": None, "layout": 3, "data": [], "seconds": None},
    {"environment": {"packages": "many", "cpu_count": "two"}, "flags": "one", "finished": 5},
])  # fmt: skip
def test_a_damaged_manifest_leaves_a_page(manifest, tmp_path):
    folder = toy.run_folder(tmp_path / "toy" / "one", manifest=manifest)
    made = toy.of(tmp_path, toy.entry(toy.experiment("toy", toy.CLAIMS), folder))
    page = Page(report.render(made))
    assert_sound(page)
    (lead,) = [t for a, t in page.every("p") if a.get("class") == "lead"]
    assert "1 of 1 experiment finished" in lead


def test_what_cannot_be_drawn_is_named_and_the_rest_is_there(tmp_path):
    def charts(record):
        raise KeyError("nothing")
        yield

    folder = toy.run_folder(tmp_path / "toy" / "one", ("curve", "torn"))
    (folder / "figures" / "torn.png").write_bytes(b"\x89PNG not really")
    (folder / "figures" / "figures.json").write_text("[1")
    made = toy.of(tmp_path, toy.entry(toy.experiment("toy", toy.CLAIMS, charts), folder))
    page = Page(report.render(made))
    assert_sound(page)
    _, section = page.by_id("toy")
    assert "A chart could not be drawn: KeyError: 'nothing'" in section
    assert "The figure torn cannot be read." in section
    assert [a["alt"] for a, _ in page.every("img")] == ["curve"]


# ---------------------------------------------------------------------------- pictures


def test_pictures_stay_within_their_bytes_and_keep_their_shape(tmp_path):
    toy.picture(tmp_path / "line.png", (2000, 800))
    (found,) = report_pictures.pictures({"line": tmp_path / "line.png"}, {}, 20_000)
    assert (found.width, found.height) == (1100, 440)
    assert len(found.uri) < 20_000 * 4 / 3 + 30
    assert report_pictures.limit(150) * 150 <= report_pictures.ALL
    assert report_pictures.limit(0) == report_pictures.limit(1) == report_pictures.MOST


def test_a_moving_picture_has_a_still_one_and_gives_way_to_a_chart(tmp_path):
    frames = [Image.new("RGB", (90, 60), colour) for colour in ("red", "blue")]
    figures = toy.run_folder(tmp_path / "toy" / "one", ()) / "figures"
    for name in ("regions", "moving"):
        frames[0].save(figures / f"{name}.gif", save_all=True, append_images=frames[1:])
    module = toy.experiment("toy", toy.CLAIMS, relu_regions_charts.charts)
    page = Page(report.render(toy.of(tmp_path, toy.entry(module, figures.parent))))
    assert_sound(page)
    assert [a["alt"] for a, _ in page.every("img")] == ["moving"]
    assert [a["media"] for a, _ in page.every("source")] == ["(prefers-reduced-motion: reduce)"]


# ---------------------------------------------------------------------------- charts


@pytest.mark.parametrize("threshold", [-2.0, -0.05, 0.3, 5.0])
@pytest.mark.parametrize("direction", ["above", "below", "within"])
def test_the_band_is_where_the_claim_holds(direction, threshold):
    threshold = abs(threshold) if direction == "within" else threshold
    base = toy.claim("0.1", "x", toy.low, direction, threshold)
    (verdict,) = judge([base], toy.record())
    for effect in np.linspace(-7, 7, 57):
        row = report_charts.forest_row(dataclasses.replace(verdict, effect=effect), "#x", {})
        holds = {"above": effect > threshold, "below": effect < threshold,
                 "within": abs(effect) < threshold}[direction]  # fmt: skip
        inside = row["side"] < effect / threshold < row["side_end"]
        assert inside == holds or abs(effect / threshold) >= report_charts.FARTHEST


def test_intervals_without_ends_and_far_effects_stay_on_the_axis():
    (verdict,) = judge([toy.claim("0.3", "x", toy.few, "below", -0.5)], toy.record())
    assert verdict.low == -np.inf
    row = report_charts.forest_row(dataclasses.replace(verdict, effect=1e9), "#x", {})
    assert row["low"] == row["at"] == -100
    assert row["high"] == 100
    assert row["low_off"]
    assert row["high_off"]
    exact = report_charts.forest_row(
        dataclasses.replace(verdict, effect=1e9, low=None, high=None), "#x", {}
    )
    assert exact["low_off"]
    assert "high_off" not in exact
    assert report_charts.forest_domain([row]) == (-100, 100)
    json.dumps(row, allow_nan=False)


def test_an_effect_without_a_unit_has_no_row():
    exact, lacking = judge(
        [toy.claim("0.4", "x", toy.identity, "within", 0.0, kind="exact"),
         toy.claim("0.6", "x", toy.failing)], toy.record(),
    )  # fmt: skip
    assert report_charts.forest_row(exact, "#x", {}) is None
    assert report_charts.forest_row(lacking, "#x", {}) is None


def test_a_strip_shows_every_seed_or_a_fair_share():
    (verdict,) = judge([toy.claim("0.1", "x", toy.high)], toy.record())
    rows = report_charts.strip_rows([("here", verdict)])
    seen = {row["seed"]: row["x"] for row in rows if "seed" in row}
    np.testing.assert_allclose([seen[s] for s in verdict.labels], verdict.values, rtol=1e-4)
    assert sorted(r["threshold"] for r in rows if "threshold" in r) == [1.0]
    low, high = report_charts.strip_ends(rows)
    assert low < 1.0 < max(verdict.values) < high
    many = dataclasses.replace(verdict, values=tuple(np.arange(5000.0)), labels=tuple(range(5000)))
    shown = [r["x"] for r in report_charts.strip_rows([("here", many)]) if "seed" in r]
    assert (len(shown), min(shown), max(shown)) == (report_charts.MOST_VALUES, 0, 4999)


def test_regions_drawn_are_the_networks():
    record = toy.record()
    epochs = relu_regions_charts.frames(record)
    assert epochs[0] == 0
    assert epochs[-1] == toy.EPOCHS
    flat = record["shown_params"].sel(arm="main").values[epochs]
    for params, pieces in zip(flat, pieces_of(record, flat), strict=True):
        row = relu_regions_charts.row_of(pieces)
        assert row["x"] == sorted(row["x"])
        assert (row["x"][0], row["x"][-1]) == (-2, 2)
        kernels, biases = layers_of(unflatten(toy.WIDTHS, params))
        h = np.array(row["x"])[:, None]
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            h = h @ kernel + bias
            h = np.maximum(h, 0) if i < len(kernels) - 1 else h
        np.testing.assert_allclose(row["y"], h[:, 0], atol=2e-3 * np.abs(h).max())
        assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in row["colour"][:-1])


def test_frames_end_where_the_network_does():
    record = toy.record()
    record["shown_params"].values[0, 20:] = np.nan
    assert relu_regions_charts.frames(record).max() < 20


def test_the_budget_is_its_quartiles_over_seeds():
    record = toy.record()
    record["realised"].values[:, :, 7] = np.nan
    budget = mnist_gradnorm_charts.budget_by_step(record)
    assert budget["step"].tolist() == [s for s in range(1, toy.STEPS + 1) if s != 8]
    first = -record["first_order"].sel(arm="main", step=9).values
    np.testing.assert_allclose(budget["first"][:, 7], np.quantile(first, [0.25, 0.5, 0.75]))
    np.testing.assert_allclose(budget["both"][1, 7], np.median(0.9 * first))
    np.testing.assert_allclose(budget["second"][1, 7], np.median(0.1 * first))
    columns = mnist_gradnorm_charts.columns_of(budget)
    assert columns["step"][7] == 9
    assert columns["realised_low"][7] == pytest.approx(np.quantile(0.89 * first, 0.25), rel=5e-3)


def test_of_many_steps_some_are_kept_with_the_first_and_the_last():
    record = toy.record().sel(step=np.arange(1, toy.STEPS + 1).repeat(50))
    record = record.assign_coords(step=np.arange(1, 50 * toy.STEPS + 1))
    steps = mnist_gradnorm_charts.budget_by_step(record)["step"]
    assert len(steps) == mnist_gradnorm_charts.STEPS
    assert (steps[0], steps[-1]) == (1, 50 * toy.STEPS)


def test_charts_are_drawn_from_records_with_gaps():
    assert list(mnist_gradnorm_charts.charts(toy.record().drop_vars("first_order"))) == []
    record = toy.record()
    record["second_order"].values[:] = np.nan
    assert list(mnist_gradnorm_charts.charts(record)) == []


# ---------------------------------------------------------------------------- listings


def test_a_listing_is_the_file_line_by_line():
    arms = [arm for v in judge(toy.CLAIMS, None) for _, arm in report.arms_of(v)]
    (listing,) = report_listing.listings(arms)
    source = Path(toy.__file__).read_text().splitlines()
    assert [html.unescape(re.sub("<[^>]*>", "", line.html)) for line in listing.lines] == source
    measured = [source[line.number - 1] for line in listing.lines if line.measured]
    assert [line for line in measured if line.startswith("def ")] == [
        f"def {name}(record):" for name in
        ("high", "low", "low_in_control", "few", "identity", "is_one", "failing")
    ]  # fmt: skip
    assert all("return" in text or "def" in text or '"""' in text for text in measured)


# ---------------------------------------------------------------------------- words


@pytest.mark.parametrize(("p", "words"), [
    (None, ""), (0.0, "< 0.0001"), (9.9e-5, "< 0.0001"), (0.00012, "0.00012"), (1.0, "1"),
])  # fmt: skip
def test_p_values_in_words(p, words):
    assert report.p_value(p) == words


def test_backticks_are_code_and_all_else_is_escaped():
    assert report.with_code("a `b<` c&") == "a <code>b&lt;</code> c&amp;"
    assert report.with_code("a ` b <") == "a ` b &lt;"


def test_days_are_written_out_and_other_texts_left():
    assert report.day("2026-11-03T16:50:10Z") == "3 November 2026"
    assert report.day("yesterday") == "yesterday"
