"""The feature browser: what is written, and what people meet in a real browser."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monosem.core.artifacts import verify_folder
from monosem.core.errors import InputError
from monosem.explain.feature_cards import Classifier, FeatureCards, feature_cards
from monosem.report.browser import Samples, write_browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
N, K = 120, 4
ATTACK = "<img src=x onerror=\"document.title='broken'\"></script><script>document.title='broken'</script>"
CLASSES = ["boathouse", "jeans", ATTACK, "pier & sea"]
LABELS = np.arange(N) % K


def cards(
    name: str, n_dims: int, numbers: Sequence[int] | None = None, *, weights: bool = True
) -> FeatureCards:
    rng = np.random.default_rng(len(name))
    features = torch.from_numpy(rng.normal(size=(N, n_dims))).float().relu()
    scores = np.linspace(0.9, -0.1, n_dims)
    scores[3] = np.nan
    classifier = Classifier(
        f"{name} {ATTACK}", rng.normal(size=(K, n_dims)), np.array([0.5, 0.9, np.nan, 0.7])
    )
    return feature_cards(
        name,
        features,
        LABELS,
        K,
        {"matched": scores, "native": scores[::-1]},
        numbers=None if numbers is None else np.array(numbers),
        classifier=classifier if weights else None,
    )


def pictures(rows: np.ndarray) -> Iterator[np.ndarray | None]:
    for row in rows:
        yield None if row in (5, 6) else np.full((1, 8, 8), row, np.uint8)


SAMPLES = Samples(LABELS, CLASSES, pictures=pictures)


def data(path: Path) -> Any:
    """What a data script hands over."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


def sheet_of(folder: Path) -> np.ndarray:
    with Image.open(folder / "sprites/0.webp") as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "features"
    sets = [cards("ncl", 70), cards("sae", 60, range(0, 60, 2)), cards("ends", 8, weights=False)]
    write_browser(path, f"Features {ATTACK}", sets, SAMPLES, notes=[f"A note {ATTACK}"])
    return path


def test_nothing_in_the_files_is_markup_but_the_page_itself(folder: Path) -> None:
    assert "<script>" not in (folder / "index.html").read_text()
    scripts = list((folder / "data").glob("*.js"))
    assert scripts
    for file in scripts:
        assert not re.search("[<>&\u2028\u2029]", file.read_text())
    assert data(folder / "data/index.js")["classes"] == CLASSES


def test_data_hold_the_cards(folder: Path) -> None:
    expected = cards("sae", 60, range(0, 60, 2))
    summary, chunk = data(folder / "data/set-1.js"), data(folder / "data/set-1-cards-0.js")
    assert summary["number"] == list(range(0, 60, 2))  # scores fall with the number
    known = data(folder / "data/index.js")
    for feature in (0, 17, 29):
        assert summary["density"][feature] == pytest.approx(expected.density[feature], rel=1e-3)
        assert [known["rows"][place] for place in chunk[feature]["samples"]] == list(
            expected.samples[feature]
        )
        assert chunk[feature]["activations"] == pytest.approx(expected.activations[feature], rel=1e-3)
        assert chunk[feature]["histogram"] == list(expected.histogram[feature])
        assert dict(chunk[feature]["classes"])[int(expected.class_shares[feature].argmax())] == pytest.approx(
            expected.class_shares[feature].max(), rel=1e-3
        )
    assert expected.classifier is not None
    weights = expected.classifier.weights
    best, _ = summary["classifier"]["for"][1][0]
    worst, least = summary["classifier"]["against"][1][0]
    assert best == weights[1].argmax()
    assert (worst, least) == (weights[1].argmin(), pytest.approx(weights[1].min(), rel=1e-3))
    assert summary["classifier"]["accuracies"] == [0.5, 0.9, None, 0.7]


def test_samples_that_do_not_activate_a_feature_are_not_shown(tmp_path: Path) -> None:
    features = torch.zeros(N, 3)
    features[7, 1], features[3, 1] = 2.0, 1.0
    shown = feature_cards("few", features, LABELS, K, {})
    written = write_browser(tmp_path / "b", "Few", [shown], SAMPLES)
    assert written.n_shown == 2
    known, (dead, few, _) = data(tmp_path / "b/data/index.js"), data(tmp_path / "b/data/set-0-cards-0.js")
    assert (dead["samples"], dead["activations"]) == ([], [])
    assert [known["rows"][place] for place in few["samples"]] == [7, 3]
    assert few["activations"] == [2, 1]


def test_features_are_ranked_by_their_first_score(folder: Path) -> None:
    number = data(folder / "data/set-0.js")["number"]
    assert number == [0, 1, 2, *range(4, 70), 3]
    first = data(folder / "data/set-0-cards-0.js")[0]["samples"]
    assert first == list(range(9))  # what is seen first comes first on the sheets


def test_sprites_hold_the_pictures_and_grey_where_there_are_none(folder: Path) -> None:
    known = data(folder / "data/index.js")
    sheet = sheet_of(folder)
    side, across = known["sprites"]["side"], known["sprites"]["columns"]
    assert side == 8
    for place in (0, 1, len(known["rows"]) - 1, known["sprites"]["missing"][0]):
        row, column = divmod(place, across)
        square = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert (square == (128 if known["rows"][place] in (5, 6) else known["rows"][place])).all()
    assert sorted(known["rows"][place] for place in known["sprites"]["missing"]) == [5, 6]
    assert "2 of 120 pictures could not be read" in (folder / "index.html").read_text()


def test_large_pictures_are_shrunk_and_spread_over_sheets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.random((600, 40)).astype(np.float32)
    labels = np.zeros(600, np.int64)
    shown = feature_cards("wide", features, labels, 2, {}, n_samples=40)
    gradient = np.broadcast_to(np.arange(130, dtype=np.uint8), (3, 70, 130))
    asked: list[int] = []

    def wide(rows: np.ndarray) -> list[np.ndarray]:
        asked.extend(rows)
        return [gradient] * len(rows)

    written = write_browser(tmp_path / "b", "Wide", [shown], Samples(labels, ["all", "none"], pictures=wide))
    assert sorted(asked) == sorted(set(shown.samples.ravel()))
    assert (written.n_shown, written.n_missing) == (len(asked), 0)
    assert data(tmp_path / "b/data/index.js")["sprites"]["side"] == 64
    assert len(list((tmp_path / "b/sprites").iterdir())) == -(-len(asked) // 256)
    assert sheet_of(tmp_path / "b").shape == (1024, 1024, 3)


def test_an_older_browser_is_replaced_whole(tmp_path: Path) -> None:
    many, one = [cards("ncl", 8), cards("sae", 8)], [cards("ends", 8)]
    write_browser(tmp_path / "b", "Old", many, SAMPLES)
    texts = Samples(LABELS, CLASSES, texts=[f"text {row} {'long ' * 1000}" for row in range(N)])
    written = write_browser(tmp_path / "b", "New", one, texts)
    assert written.page == tmp_path / "b/index.html"
    assert "New" in written.page.read_text()
    assert not (tmp_path / "b/data/set-1.js").exists()
    assert not (tmp_path / "b/sprites").exists()
    longest = max(map(len, data(tmp_path / "b/data/texts-0.js")))
    assert longest == 2001
    verify_folder(tmp_path / "b")
    with pytest.raises(InputError):  # and stays where the new one cannot be written
        write_browser(tmp_path / "b", "Bad", one, Samples(LABELS, CLASSES, pictures=lambda rows: []))
    verify_folder(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    fits = cards("ncl", 8)
    beyond = replace(fits, name="sae", samples=fits.samples + N)
    other = feature_cards("sae", np.ones((N, 2), np.float32), LABELS, K + 1, {})
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "index.js").write_text("mine")
    texts = ["text"] * N
    cases: list[tuple[str, list[FeatureCards], Samples, str]] = [
        ("b", [], SAMPLES, "no feature sets"),
        ("b", [fits, fits], SAMPLES, "names of their own"),
        ("b", [fits, other], SAMPLES, "of 5 classes and the samples of 4"),
        ("b", [fits, beyond], SAMPLES, r"sae: its cards show sample \d+, but samples are 0\.\.119"),
        ("b", [fits], Samples(LABELS, CLASSES), "either pictures or texts"),
        ("b", [fits], Samples(LABELS, CLASSES, pictures, texts), "either pictures or texts"),
        ("b", [fits], Samples(LABELS, CLASSES, texts=texts[1:]), "as many texts, got 119"),
        ("b", [fits], Samples(LABELS + 1, CLASSES, texts=texts), r"0\.\.3"),
        (
            "b",
            [fits],
            Samples(LABELS, CLASSES, pictures=lambda rows: [None]),
            r"asked for \d+ pictures, got 1",
        ),
        ("b", [fits], Samples(LABELS, CLASSES, pictures=lambda rows: np.ones((len(rows), 1, 2, 2))), "uint8"),
        ("mine", [fits], SAMPLES, "holds other files than those of a feature browser"),
    ]
    for place, sets, samples, words in cases:
        with pytest.raises(InputError, match=words):
            write_browser(tmp_path / place, "Title", sets, samples)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# -------------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH to open the browser in")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Any]


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def page_of(chromium: Any, folder: Path) -> Iterator[Open]:
    """Opens a browser; what goes wrong on its page, and what it asks for elsewhere, fails the test."""
    contexts, faults, asked = [], [], []

    def open_page(state: str = "", at: Path | str = folder, **settings: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{at if isinstance(at, str) else (at / 'index.html').as_uri()}#{state}")
        page.wait_for_function("() => document.querySelector('main .card .bar, main .by-class[hidden]')")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert all(url.startswith(("file:", "data:", "http://127.0.0.1:")) for url in asked)


def numbers(page: Any, within: str = ".pane:not([hidden])") -> list[int]:
    return [int(text[1:]) for text in page.locator(f"{within} .open").all_inner_texts()]


def test_pictures_are_those_of_their_samples(page_of: Open) -> None:
    thumbs = page_of().locator(".card").first.locator(".thumb")
    assert thumbs.count() == 9
    for thumb in thumbs.all():
        row = int(re.search(r"sample (\d+)", thumb.get_attribute("title"))[1])
        with Image.open(BytesIO(thumb.screenshot())) as shown:
            middle = np.asarray(shown.convert("L"))[10:-10, 10:-10].astype(float)
        assert middle == pytest.approx(128 if row in (5, 6) else row, abs=1)  # each is of one shade


def test_details_of_a_feature_far_down_do_not_make_all_cards_above_it(page_of: Open) -> None:
    page = page_of("view=features&open=a.69")
    assert page.locator("#details[open] h2").inner_text() == "NCL #69"
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.hash.includes('open')")
    assert len(numbers(page)) < 60


def test_first_cards_show_what_is_known_of_a_feature(page_of: Open) -> None:
    page = page_of()
    assert numbers(page) == [0, 1, 2, *range(4, 25)]  # the first batch, by the first score
    card = page.locator(".card").first
    assert card.locator(".thumb").count() == 9
    assert re.match(r".+, activation [\d.]+, sample \d+", card.locator(".thumb").first.get_attribute("title"))
    assert "0.900" in card.inner_text()
    assert re.search(r"\d+ of 120 not zero", card.inner_text())
    assert page.get_by_role("img", name=re.compile("Histogram of")).count() == 24
    chips = card.locator(".chip").all_inner_texts()
    assert len(chips) == 4
    assert all(re.match("[+\N{MINUS SIGN}]\\d", chip) for chip in chips)
    assert page.get_by_role("status").first.inner_text() == "NCL has 70 dimensions."


def test_cards_are_made_as_one_scrolls(page_of: Open) -> None:
    page = page_of()
    assert page.locator(".card").count() == 24
    for _ in range(3):
        page.evaluate("scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
        page.wait_for_timeout(100)
    page.wait_for_function("() => document.querySelectorAll('.card').length === 70")
    last = page.locator(".card").last
    assert "not scored" in last.inner_text()
    assert numbers(page)[-1] == 3


def test_markup_in_data_is_text(page_of: Open, tmp_path: Path) -> None:
    page = page_of("view=classes&k=2")
    assert page.title() == f"Features {ATTACK}"
    assert page.locator("h1").inner_text() == f"Features {ATTACK}"
    assert page.locator(".of-class h2").inner_text() == ATTACK
    assert page.locator(".about").inner_text() == f"ncl {ATTACK}"
    assert page.locator("img").count() == 0
    texts = Samples(LABELS, CLASSES, texts=[f"\u2028{row} {ATTACK}" for row in range(N)])
    write_browser(tmp_path / "b", "Texts", [cards(ATTACK, 8)], texts)
    page = page_of(at=tmp_path / "b")
    page.locator(".card").first.get_by_text("<img src=x").first.wait_for()
    assert page.title() == "Texts"
    assert page.locator("img").count() == 0
    page.locator(".card .open").first.click()
    assert page.locator("#details h2").inner_text() == f"{ATTACK} #0"
    assert page.locator("dialog figure").count() == 9


def test_sort_filter_and_search(page_of: Open) -> None:
    page = page_of()
    page.get_by_label("Sort by").first.select_option("number")
    page.wait_for_function("() => document.querySelectorAll('.open')[3].textContent === '#3'")
    page.locator(".direction").first.click()
    page.wait_for_function("() => document.querySelector('.open').textContent === '#69'")
    page.get_by_label("Sort by").first.select_option("score:native")
    page.wait_for_function("() => document.querySelectorAll('.open')[3].textContent === '#65'")
    assert numbers(page)[:4] == [69, 68, 67, 65]  # 66 has no such score
    assert "a.sort=score%3Anative" in page.url
    page.get_by_text("Filter").first.click()
    page.get_by_label("matched, at least").first.fill("0.8")
    page.get_by_label("matched, at least").first.press("Enter")
    page.get_by_text("NCL has 70 dimensions; 6 pass the filter.").wait_for()
    assert sorted(numbers(page)) == [0, 1, 2, 4, 5, 6]
    page.get_by_label("density, %, at most").first.fill("1")
    page.get_by_label("density, %, at most").first.press("Enter")
    page.get_by_text("0 pass the filter").wait_for()
    page.get_by_placeholder("#123").first.fill("#3, 7")
    page.get_by_text("searched by number").wait_for()
    assert numbers(page) == [3, 7]
    page.get_by_placeholder("#123").first.fill("#400")
    page.get_by_text("#400 is not among them").wait_for()
    page.get_by_placeholder("#123").first.fill("")
    page.get_by_role("button", name="Clear").first.click()
    page.get_by_label("Top class").first.select_option("1")
    page.wait_for_function("() => /pass the filter/.test(document.querySelector('.count').textContent)")
    assert page.locator("summary").first.inner_text() == "Filter (1)"
    top = page.locator(".card .shares .bar:first-child span").all_inner_texts()
    assert top
    assert set(top) == {"jeans"}
    page.go_back()
    page.get_by_text("NCL has 70 dimensions.").first.wait_for()


def test_sets_change_and_stand_side_by_side(page_of: Open) -> None:
    page = page_of()
    page.keyboard.press("]")
    page.get_by_text("SAE shows 30 of 60 dimensions.").wait_for()
    assert numbers(page)[:3] == [0, 2, 4]
    page.get_by_role("button", name="Side by side").click()
    second = page.locator(".pane").nth(1)
    second.get_by_text("ends has 8 dimensions.").wait_for()
    second.get_by_label("Sort by").select_option("number")
    page.wait_for_function("() => location.hash.includes('b.sort=number')")
    assert numbers(page, ".pane:nth-child(2)") == list(range(8))
    assert numbers(page, ".pane:nth-child(1)")[:3] == [0, 2, 4]
    first, other = page.locator(".pane").first.bounding_box(), second.bounding_box()
    assert first["y"] == other["y"]
    page.set_viewport_size({"width": 390, "height": 800})
    first, other = page.locator(".pane").first.bounding_box(), second.bounding_box()
    assert first["y"] + first["height"] <= other["y"] < 2000  # stacked, and within reach
    page.locator(".scroller").first.evaluate("scroller => scroller.scrollTo(0, scroller.scrollHeight)")
    page.wait_for_function("() => document.querySelectorAll('.pane:nth-child(1) .card').length === 30")
    page.go_back()
    page.go_back()
    second.wait_for(state="hidden")


def test_classifier_view_goes_from_classes_to_features(page_of: Open) -> None:
    page = page_of()
    page.get_by_role("button", name="Classifier", exact=True).click()
    listed = page.locator(".class-list span")
    listed.first.wait_for()
    assert listed.all_inner_texts() == ["jeans", "pier & sea", "boathouse", ATTACK]
    assert page.locator(".class-list b").all_inner_texts() == ["90.0 %", "70.0 %", "50.0 %", "no samples"]
    page.get_by_label("Classes by").select_option("name")
    page.wait_for_function("() => location.hash.includes('order=name')")
    page.locator(".class-list button", has_text="boathouse").click()
    page.get_by_role("heading", name="boathouse").wait_for()
    known = cards("ncl", 70).classifier
    assert known is not None
    best = np.argsort(-known.weights[0])[:24]
    assert numbers(page, ".for") == list(best)
    assert numbers(page, ".against") == list(np.argsort(known.weights[0])[:12])
    assert page.locator(".for .weight").first.inner_text() == f"weight +{known.weights[0, best[0]]:.2f}"
    assert page.locator(".against .weight").first.inner_text().startswith("weight \N{MINUS SIGN}")
    assert page.locator(".for .card").first.locator(".thumb").count() == 9
    page.locator(".class-list [aria-current]").focus()
    page.keyboard.press("ArrowDown")
    page.get_by_role("heading", name="jeans").wait_for()
    page.keyboard.press("[")
    page.get_by_text("No classifier was given for ends.").wait_for()


def test_details_open_turn_and_close(page_of: Open) -> None:
    page = page_of()
    page.locator(".card .open").nth(1).click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert dialog.get_by_role("heading").first.inner_text() == "NCL #1"
    assert dialog.locator(".large").count() == 9
    assert "open=a.1" in page.url
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="NCL #2").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.wait_for_function("() => !location.hash.includes('open')")
    page.wait_for_function("() => document.activeElement.textContent === '#2'")
    page.go_forward()
    dialog.wait_for()
    page.go_back()
    dialog.wait_for(state="hidden")
    page = page_of("view=features&a.set=sae&open=a.4")  # as shared
    page.get_by_role("heading", name="SAE #4").wait_for()
    page.get_by_role("button", name="Next feature").click()
    page.get_by_role("heading", name="SAE #6").wait_for()
    assert page.get_by_role("button", name="Previous feature").is_enabled()
    page.locator("dialog button.chip").first.click()
    page.locator(".class-list [aria-current]").wait_for()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert "view=classes" in page.url


def test_keys_go_from_card_to_card(page_of: Open) -> None:
    page = page_of()
    focused = "document.activeElement.textContent"
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "#1"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "#5"  # three a row, and #3 has no score
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "#0"
    outline = "getComputedStyle(document.activeElement.closest('.card')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    for _ in range(9):
        page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "#28"  # past the first batch
    assert page.locator('.open[tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="NCL #28").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    page.wait_for_function("() => document.activeElement.textContent === '#28'")
    page.keyboard.press("/")
    page.keyboard.type("12")
    page.get_by_role("button", name="Feature 12", exact=True).wait_for()
    page.get_by_text("searched by number").wait_for()
    assert numbers(page) == [12]
    page.locator(".open").first.focus()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_a_phone_scrolls_one_way(page_of: Open) -> None:
    page = page_of(viewport={"width": 390, "height": 844})
    page.get_by_text("Filter").first.click()
    for state, awaited in (
        ("view=features", ".pane"),
        ("view=features&b.set=sae", ".pane:nth-child(2) .card .bar"),
        ("view=classes", "#classes .card .bar"),
        ("view=features&open=a.1", "dialog .bar"),
    ):
        page.evaluate("state => { location.hash = state; }", state)
        page.locator(awaited).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        parts = "[...document.querySelectorAll('.card, dialog[open] *, .controls *')]"
        seen = f"{parts}.filter((part) => part.checkVisibility())"
        assert page.evaluate(f"Math.max(...{seen}.map((part) => part.getBoundingClientRect().right))") <= 390


def test_dark_follows_the_system_and_the_toggle(page_of: Open) -> None:
    page = page_of(color_scheme="dark")
    shade = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(shade)
    assert dark == "rgb(22, 24, 27)"
    page.get_by_role("button", name="Theme: auto").click()
    assert page.evaluate(shade) == "rgb(251, 251, 250)"
    page.get_by_role("button", name="Theme: light").click()
    page.reload()
    page.get_by_role("button", name="Theme: dark").wait_for()
    assert page.evaluate(shade) == dark
    bar = page.locator(".bar i").first
    assert bar.evaluate("bar => getComputedStyle(bar).backgroundColor") not in ("rgba(0, 0, 0, 0)", dark)


def test_any_static_host_will_do(page_of: Open, folder: Path) -> None:
    handler = partial(QuietFiles, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            page = page_of("view=features&b.set=sae", at=f"http://127.0.0.1:{server.server_port}/")
            page.locator(".pane").nth(1).locator(".thumb").first.wait_for()
            page.context.close()
        finally:
            server.shutdown()
            thread.join()


def test_a_missing_file_is_told(chromium: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b/data/set-0-cards-0.js").unlink()
    page = chromium.new_page()
    page.goto((tmp_path / "b/index.html").as_uri())
    page.get_by_role("alert").wait_for()
    assert "data/set-0-cards-0.js cannot be read" in page.get_by_role("alert").inner_text()
    page.close()
