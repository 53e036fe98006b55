"""Time from opening the feature browser to its first sorted cards with pictures (target: 2 s), and its size.

    python benchmarks/browser.py [--features 5000] [--samples 10000] [--repeats 7]

Two feature sets with a classifier of 100 classes each, over samples of 32 x 32 noise, opened from disk in a
new profile of headless Chromium each time. Ready is when cards hold pictures and the sheets of all pictures
in view are decoded. The usual order of a set needs one file of cards and few sheets; `by density` those come
from all over.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from monosem.explain.feature_cards import Classifier, FeatureCards, feature_cards
from monosem.report.browser import Samples, write_browser

CLASSES = 100
READY = """async () => {
    const thumbs = [...document.querySelectorAll(".thumb")];
    if (!thumbs.length) return null;
    const inView = thumbs.filter((thumb) => thumb.getBoundingClientRect().top < innerHeight);
    const sheets = new Set(inView.map((thumb) => getComputedStyle(thumb).backgroundImage.slice(5, -2)));
    await Promise.all([...sheets].map((sheet) => {
        const image = new Image();
        image.src = sheet;
        return image.decode();
    }));
    for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);
    return [performance.now() / 1000, sheets.size];
}"""


def cards(name: str, labels: np.ndarray, n_features: int, seed: int) -> FeatureCards:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((len(labels), n_features), dtype=np.float32)
    features -= rng.uniform(0, 2.5, n_features).astype(np.float32)
    classifier = Classifier("Random", rng.standard_normal((CLASSES, n_features)), rng.random(CLASSES))
    scores = {"matched": rng.random(n_features), "native": rng.random(n_features)}
    return feature_cards(name, features.clip(min=0), labels, CLASSES, scores, classifier=classifier)


def noise(rows: np.ndarray) -> Iterator[np.ndarray]:
    for row in rows:
        yield np.random.default_rng(row).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def seconds_to_cards(browser: Browser, page: Path, state: str) -> tuple[float, int]:
    """From navigation to pictures in view, and the sheets these lie on."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        tab = context.new_page()
        tab.goto(f"{page.as_uri()}#{state}")
        seconds, sheets = tab.wait_for_function(READY, polling=10).json_value()
        return float(seconds), int(sheets)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=10000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    labels = np.arange(arguments.samples) % CLASSES
    sets = [cards(name, labels, arguments.features, seed) for seed, name in enumerate(("simclr", "ncl"))]
    samples = Samples(labels, [f"class {k}" for k in range(CLASSES)], pictures=noise)
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        written = write_browser(Path(temporary) / "browser", "Benchmark", sets, samples)
        print(f"2 x {arguments.features:,} features, {written.n_shown:,} pictures of 32 x 32")
        print(f"written in {time.perf_counter() - start:.1f} s")
        for part in ("data", "sprites"):
            files = list((written.page.parent / part).iterdir())
            size = sum(file.stat().st_size for file in files)
            print(f"{part:8s} {size / 1e6:6.1f} MB in {len(files)} files")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            for name, state in (("first cards", ""), ("by density", "view=features&a.sort=density")):
                runs = [seconds_to_cards(browser, written.page, state) for _ in range(arguments.repeats)]
                times = [seconds for seconds, _ in runs]
                print(
                    f"{name}: {statistics.median(times):.2f} s  ({min(times):.2f} - {max(times):.2f}), "
                    f"pictures from {runs[0][1]} sheets"
                )
            browser.close()


if __name__ == "__main__":
    main()
