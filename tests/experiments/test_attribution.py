import numpy as np
import pytest

from monosem.experiments.attribution import attribute, ladder, sentence

CONDITION = "label-noise-symmetric"
TUNED = {
    "simclr": 0.50,
    "spectrum-of-sae": 0.51,
    "random-topk-like-sae": 0.48,
    "rotated-sae": 0.55,
    "sae": 0.55,
}


@pytest.fixture
def results(planted_results):
    jitter = np.linspace(-0.005, 0.005, 6)
    scores = {("tuned", features): score + jitter for features, score in TUNED.items()}
    scores |= {("published", "simclr"): 0.60 + jitter, ("published", "sae"): 0.57 - jitter}
    return planted_results(scores)


def test_parts_are_the_planted_steps_and_add_up_to_the_published_gain(results):
    found = attribute(results, "sae", CONDITION)
    assert found.gain.mean == pytest.approx(-0.03)
    sizes = {part.name: part.size.mean for part in found.parts}
    planted = {"tuning": -0.08, "spectrum": 0.01, "sparsity": -0.03, "learning": 0.07, "axes": 0.0}
    assert sizes == pytest.approx(planted, abs=1e-9)
    assert sum(sizes.values()) == pytest.approx(found.gain.mean)


def test_parts_are_paired_by_encoder(results):
    parts = {part.name: part.size for part in attribute(results, "sae", CONDITION).parts}
    # Tuned rungs move together from encoder to encoder, the published pair does not.
    assert parts["learning"].high - parts["learning"].low == pytest.approx(0.0, abs=1e-9)
    assert parts["tuning"].high - parts["tuning"].low > 0.005


def test_the_sentence_names_the_largest_part_first(results):
    text = sentence(attribute(results, "sae", CONDITION))
    assert text == "of the -3.0 points: -8.0 tuning, +7.0 learning, -3.0 sparsity, +1.0 spectrum, 0.0 axes"


def test_a_missing_rung_leaves_no_attribution_but_a_shorter_ladder(results):
    fewer = results[results["features"] != "random-topk-like-sae"]
    assert attribute(fewer, "sae", CONDITION) is None
    assert [name for name, _, _ in ladder(fewer, "sae", CONDITION)] == ["spectrum", "rotated", "learned"]
    assert attribute(results, "ncl", CONDITION) is None
