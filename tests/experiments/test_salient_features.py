"""What probes lean on, in a pair with planted features: against the same readings taken by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from planted_pairs import planted_pair
from scipy.stats import mannwhitneyu, spearmanr

from monosem.core.artifacts import load_tensors
from monosem.core.errors import InputError
from monosem.experiments.recipes import load_recipe
from monosem.experiments.results import SALIENT_COLUMNS, read_table
from monosem.experiments.salient_features import SALIENT_TABLE, works, write_salient
from monosem.measures.consistency import matched_monosemanticity
from monosem.robust.probe import train_probes

K, D = 10, 24
TINY = (
    "data.train_limit=300",
    "data.test_limit=150",
    "label_noise.levels=[0.6]",
    "published.epochs=3",
    "salience.n_samples=5",
)


def planted(labels: torch.Tensor) -> torch.Tensor:
    """Even classes have a dimension each; odd ones share theirs with all other samples' noise."""
    generator = torch.Generator().manual_seed(len(labels))
    features = 0.3 * torch.rand(len(labels), D, generator=generator)
    even = (labels % 2 == 0).nonzero()[:, 0]
    features[even, labels[even]] += 1
    odd = (labels % 2 == 1).nonzero()[:, 0]
    features[odd, K + torch.randint(D - K, (len(odd),), generator=generator)] += 1
    return features


def pair_of(folder, *overrides):
    return planted_pair(folder, "fig4-digits", [*TINY, *overrides], planted)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pair = pair_of(tmp_path_factory.mktemp("stages"))
    pair.works = list(works(pair))
    for work in pair.works:
        pair.run(work)
    out = tmp_path_factory.mktemp("run")
    write_salient([pair], out)
    return pair, pd.concat(pair.results(), ignore_index=True), out


@pytest.fixture(scope="module")
def by_hand(made):
    """Probe, predictions, scores and most active dimensions of the published protocol at 60 %, for "ncl"."""
    pair, _, _ = made
    features = pair.bank.make("ncl")
    probes = train_probes(features.train, pair.noisy_labels.labels, K, pair.recipe.published, pair.seed)
    right = (probes.predict(features.test)[1] == pair.data.test.labels).numpy()
    scores = matched_monosemanticity(features.train, pair.data.train.labels, K).corrected
    return probes.weight[1], right, scores, features.test.argmax(1).numpy()


def reading(table, metric):
    chosen = table[
        (table["features"] == "ncl") & (table["protocol"] == "published") & (table["level"] == 0.6)
    ]
    (row,) = chosen[chosen["metric"] == metric].to_dict("records")
    return row


def test_readings_are_those_taken_by_hand(made, by_hand):
    _, table, _ = made
    weights, right, scores, active = by_hand
    of_samples = scores[active]
    for side, chosen in (("right", of_samples[right]), ("wrong", of_samples[~right])):
        row = reading(table, f"salient_matched_{side}")
        assert (row["value"], row["n"]) == (pytest.approx(chosen.mean(), rel=1e-5), len(chosen))
        assert reading(table, f"salient_matched_{side}_q95")["value"] == pytest.approx(
            np.quantile(chosen, 0.95), rel=1e-5
        )
    p = mannwhitneyu(of_samples[right], of_samples[~right]).pvalue
    assert reading(table, "salient_matched_p")["value"] == pytest.approx(p, rel=1e-4)
    labels = made[0].data.test.labels.numpy()
    accuracies = [right[labels == k].mean() for k in range(K)]
    rho = spearmanr(accuracies, scores[weights.argmax(1).numpy()]).statistic
    assert reading(table, "salient_matched_correlation")["value"] == pytest.approx(rho, rel=1e-4)


def test_a_planted_difference_is_seen_in_the_features_and_not_in_their_rotation(made):
    _, table, _ = made
    means = table[table["level"] == 0.6].groupby(["features", "metric"])["value"].mean()
    for name in ("ncl", "rotated-ncl"):
        gap = means[name, "salient_matched_right"] - means[name, "salient_matched_wrong"]
        assert (gap > 0.2) == (name == "ncl")


def test_every_set_its_rotation_both_protocols_and_every_level_are_read(made):
    _, table, _ = made
    counts = table[table["metric"] == "salient_native_right"].groupby(["features", "protocol"]).size()
    assert len(counts) == 6 * 2
    assert (counts == 2).all()  # clean and 60 %


def test_the_table_names_classes_dimensions_and_samples(made, by_hand):
    pair, _, out = made
    table = read_table(out / SALIENT_TABLE, SALIENT_COLUMNS, text=("class",))
    weights, right, scores, _ = by_hand
    features, labels = pair.bank.make("ncl").test, pair.data.test.labels
    chosen = table[
        (table["features"] == "ncl") & (table["protocol"] == "published") & (table["level"] == 0.6)
    ]
    assert list(chosen["shown"]) == [f"{end} {n}" for end in ("best", "worst") for n in (1, 2, 3)]
    for _, row in chosen.iterrows():
        k = int(row["class"])
        dimension = int(weights[k].argmax())
        assert row["dimension"] == dimension
        assert row["accuracy"] == pytest.approx(right[(labels == k).numpy()].mean(), rel=1e-5)
        assert row["matched"] == pytest.approx(scores[dimension], rel=1e-4)
        samples = features[:, dimension].argsort(descending=True, stable=True)[:5]
        assert json.loads(row["samples"]) == samples.tolist()
        assert json.loads(row["sample_classes"]) == [str(label) for label in labels[samples].tolist()]
    best, worst = (
        chosen[chosen["shown"].str.startswith(end)]["accuracy"].tolist() for end in ("best", "worst")
    )
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert max(worst) <= min(best)
    drawn = table[table["shown"].str.startswith("random")].groupby("features")["dimension"].apply(tuple)
    assert drawn.nunique() == 1  # the same numbers for every set
    assert len(set(drawn.iloc[0])) == 4


def test_pictures_are_those_of_the_samples_in_the_table(made):
    pair, _, out = made
    held = load_tensors(out / "salient.safetensors")
    table = read_table(out / SALIENT_TABLE, SALIENT_COLUMNS)
    shown = {row for samples in table["samples"] for row in json.loads(samples)}
    assert set(held["rows"].tolist()) == shown
    assert torch.equal(held["pixels"], pair.data.test.images[held["rows"]])


def test_a_stage_is_made_anew_for_what_it_shows_and_how_it_probes(tmp_path):
    def keys(*overrides):
        return {
            work.stage.settings["features"]: work.stage.key for work in works(pair_of(tmp_path, *overrides))
        }

    before = keys()
    assert keys("margin=0.02") == before
    for change in ("salience.n_classes=2", "published.epochs=4", "tuned.per_decade=3", "n_noise=2"):
        assert not set(keys(change).values()) & set(before.values())


def test_salience_without_noisy_labels_is_refused():
    with pytest.raises(InputError, match="`salience` is asked against label noise"):
        load_recipe("fig4-digits", ["label_noise=null"])
