"""The report in headless Chromium: what a reader does with it, from a file, without a network."""

import os
import re
import shutil

import pytest
import toy_report as toy

from experiments import ledger, report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("CI"), reason="there is no Chromium on this machine"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("report") / "runs")


@pytest.fixture(scope="module")
def address(made):
    home = made.runs_dir / "report"
    home.mkdir()
    (home / "index.html").write_text(report.render(made), "utf-8")
    return (home / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, address):
    """Opens the page with settings of a context; fails if it complains or asks for anything."""
    contexts, complaints = [], []

    def request(asked):
        if not asked.url.startswith("data:") and asked.url.split("?")[0].split("#")[0] != address:
            complaints.append(asked.url)

    def message(said):
        if said.type in ("error", "warning"):
            complaints.append(said.text)

    def open_(where="", **settings):
        settings = {
            "reduced_motion": "reduce",
            "viewport": {"width": 1280, "height": 900},
        } | settings
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", message)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", request)
        page.goto(address + where)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def chart(page, place):
    """A chart, drawn."""
    plot = page.locator(f'[data-chart="{place}"]')
    plot.scroll_into_view_if_needed()
    plot.locator("svg").wait_for()
    return plot


def rows(page):
    return page.locator("#ledger tbody tr:visible")


def test_it_opens_and_every_picture_and_chart_is_there(opened):
    page = opened()
    for i in range(page.locator(".experiment img").count()):
        picture = page.locator(".experiment img").nth(i)
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") > 0
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    plots = page.locator(".plot")
    assert plots.count() >= 10
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        plots.nth(i).locator("svg").wait_for()
        assert plots.nth(i).locator("svg").bounding_box()["width"] > 100


def test_filters_change_the_rows_and_their_count(opened, made):
    page = opened()
    everything = sum(len(e.verdicts) for e in made.entries)
    assert rows(page).count() == everything
    assert page.locator("#shown").inner_text().startswith(f"All {everything} rows")
    assert page.locator("#shown").get_attribute("aria-live") == "polite"
    page.get_by_label("Search").fill("nothing IS")
    assert rows(page).count() == 1
    assert "0.4" in rows(page).inner_text()
    assert page.locator("#shown").inner_text() == f"1 of {everything} rows shown"
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Verdict").select_option("refuted")
    refuted = sum(v.verdict == "refuted" for e in made.entries for v in e.verdicts)
    assert rows(page).count() == refuted > 0
    page.get_by_label("Experiment").select_option("toy_steps")
    assert rows(page).count() == 0
    page.get_by_label("Verdict").select_option("")
    assert rows(page).count() == 1


def test_the_address_keeps_filter_and_order(opened):
    page = opened()
    page.get_by_label("Search").fill("low")
    page.get_by_role("button", name="Effect [interval]").click()
    kept = [rows(page).nth(i).inner_text() for i in range(rows(page).count())]
    assert len(kept) > 0
    page.reload()
    assert page.get_by_label("Search").input_value() == "low"
    assert [rows(page).nth(i).inner_text() for i in range(rows(page).count())] == kept
    assert page.locator("th[aria-sort]").inner_text().startswith("Effect")


def test_sorting_orders_the_rows_and_says_so(opened, made):
    page = opened()
    effects = [v.effect for e in made.entries for v in e.verdicts if v.effect is not None]
    lacking = sum(v.effect is None for e in made.entries for v in e.verdicts)
    header = page.locator("th", has=page.get_by_role("button", name="Effect [interval]"))
    for direction, expected in (("ascending", sorted(effects)),
                                ("descending", sorted(effects, reverse=True))):  # fmt: skip
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == direction
        assert page.locator("th[aria-sort]").count() == 1
        shown = page.eval_on_selector_all(
            "#ledger tbody tr", "rows => rows.map(row => row.cells[2].dataset.value)"
        )
        assert [float(x) for x in shown[: len(effects)]] == expected
        assert shown[len(effects) :] == [""] * lacking
    page.get_by_role("button", name="Claim", exact=True).click()
    assert rows(page).nth(0).inner_text().startswith("0.1")


def test_a_count_leads_to_its_claims(opened, made):
    page = opened()
    page.locator(".tile.refuted a").click()
    page.wait_for_url(re.compile("verdict=refuted"))
    shown = {rows(page).nth(i).get_attribute("data-verdict") for i in range(rows(page).count())}
    assert shown == {"refuted"}
    assert page.locator(".tile.refuted .count").inner_text() == str(ledger.counts(made)["refuted"])


def test_the_slider_moves_the_regions_by_keyboard(opened):
    page = opened()
    plot = chart(page, "toy_regions-chart-regions")
    slider = plot.get_by_role("slider", name="Epoch")
    drawing = plot.locator("svg")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("e => e.textContent.includes('Epoch 0:')", arg=drawing.element_handle())
    before = drawing.inner_html()
    assert slider.get_attribute("aria-valuetext") == "0"
    slider.press("ArrowRight")
    page.wait_for_function(
        "([e, old]) => e.innerHTML !== old", arg=[drawing.element_handle(), before]
    )
    assert "Epoch 1:" in drawing.inner_html()
    assert slider.get_attribute("aria-valuetext") == "1"


def test_hovering_over_the_budget_shows_its_numbers(opened):
    page = opened()
    plot = chart(page, "toy_steps-chart-taylor_steps")
    box = plot.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    for words in ("step", "epoch", "first order promises", "realised"):
        assert words in tooltip.inner_text()


def test_the_budgets_sliders_choose_a_stretch(opened):
    page = opened()
    plot = chart(page, "toy_steps-chart-taylor_steps")
    slider = plot.get_by_role("slider", name="From step")
    before = plot.locator("svg").inner_html()
    slider.focus()
    slider.press("PageUp")
    page.wait_for_function(
        "([e, old]) => e.innerHTML !== old", arg=[plot.locator("svg").element_handle(), before]
    )


@pytest.mark.parametrize("how", ["click", "keyboard"])
def test_a_claim_of_the_overview_leads_to_its_section(how, opened):
    page = opened()
    plot = chart(page, "forest-toy_regions")
    marks = plot.locator('[role="link"]')
    assert marks.count() >= 4
    assert "supported" in marks.nth(0).get_attribute("aria-label")
    if how == "click":
        marks.nth(1).click(force=True)
    else:
        marks.nth(0).focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#toy_regions-0.1b'")
    assert page.locator("[id='toy_regions-0.1b'] > details").get_attribute("open") is not None
    assert page.locator("[id='toy_regions-0.1b'] h5").is_visible()


def test_a_claim_shows_its_figure_and_leads_to_its_code(opened):
    page = opened("#toy_regions-0.1a")
    part = page.locator("[id='toy_regions-0.1a']")
    copy = part.locator(".copy img")
    copy.wait_for()
    assert copy.evaluate("e => e.decode().then(() => e.naturalWidth)") > 0
    part.get_by_role("link", name="Code").click()
    line = page.locator(".line:target")
    line.wait_for()
    assert "def high(record):" in line.inner_text()


def test_tab_goes_from_the_skip_link_to_table_and_slider(opened):
    page = opened()
    chart(page, "toy_regions-chart-regions")
    page.evaluate("scrollTo(0, 0)")
    seen = []
    for _ in range(150):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("""() => {
            const at = document.activeElement;
            const outlined = getComputedStyle(at).outlineStyle !== 'none';
            return [at.className, at.id, at.type || '', outlined];
        }""")
        )
        if seen[-1][2] == "range":
            break
    assert seen[0][0] == "skip"
    assert ["", "filter-text", "search", True] in seen
    assert seen[-1][2] == "range"
    assert all(outlined for *_, outlined in seen)


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    page = opened(viewport={"width": 360, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    plots = page.locator(".plot")
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        plots.nth(i).locator("svg").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#ledger").bounding_box()["width"] <= 360


def luminance(page, selector, what):
    colour = page.eval_on_selector(selector, f"e => getComputedStyle(e).{what}")
    parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(scheme, opened):
    page = opened(color_scheme=scheme)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground < 0.05) == (scheme == "dark")
    for selector in ("body", ".quiet", ".links a", ".interval", "summary"):
        ink = luminance(page, selector, "color")
        light, dark = max(ink, ground), min(ink, ground)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


def test_the_theme_can_be_chosen(opened):
    page = opened(color_scheme="light")
    plot = chart(page, "forest-toy_regions")
    label = plot.locator("text").first
    before = label.evaluate("e => getComputedStyle(e).fill")
    page.get_by_role("button", name="Theme").click()
    page.get_by_role("button", name="Theme: light").click()
    page.get_by_role("button", name="Theme: dark").wait_for()
    assert luminance(page, "body", "backgroundColor") < 0.05
    assert label.evaluate("e => getComputedStyle(e).fill") != before  # charts follow


def test_paper_gets_everything(opened):
    page = opened(color_scheme="dark")
    page.evaluate("window.print = () => { window.printed = true; }")
    page.get_by_role("button", name="Print").click()
    page.wait_for_function("window.printed")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator(".plot:not(:has(svg))").count() == 0
    page.emulate_media(media="print")
    assert luminance(page, "body", "backgroundColor") > 0.9
    for selector in (".top", ".filters", "nav", ".copy-button"):
        assert not page.locator(selector).first.is_visible()
    assert page.locator(".values tbody th").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_table_and_the_details_are_there(opened, made):
    page = opened(java_script_enabled=False)
    assert rows(page).count() == sum(len(e.verdicts) for e in made.entries)
    assert not page.locator(".filters").is_visible()
    page.locator("summary").first.click()
    assert page.locator(".numbers").first.is_visible()
    assert "needs JavaScript" in page.locator("noscript").first.inner_text()
    page.locator("#ledger a").first.click()
    assert page.url.endswith("#toy_regions-0.1")
