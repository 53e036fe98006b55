import pandas as pd
import pytest
import torch
from planted_pairs import planted_pair

from monosem.core.errors import InputError
from monosem.experiments.axes import works
from monosem.experiments.comparisons import compare, primary
from monosem.experiments.recipes import load_recipe
from monosem.robust.axis_probes import fit_axis_probe

K, D = 10, 40
TINY = (
    "data.train_limit=300",
    "data.test_limit=150",
    "label_noise.levels=[0.3]",
    "axes.settings.rows=250",
    "axes.settings.l1={log10_weakest: -2, per_decade: 1, folds: 2, max_sweeps: 10}",
    "axes.settings.adam={optimizer: adam, lr: 1.0, epochs: 20, batch_size: 50}",
    "axes.settings.trees.n_trees=10",
)


def planted(labels):
    """Each class is one dimension of small spread; the others are wider and empty."""
    generator = torch.Generator().manual_seed(len(labels))
    features = torch.randn(len(labels), D, generator=generator)
    features[:, :K] = 0.1 * torch.randn(len(labels), K, generator=generator)
    features[torch.arange(len(labels)), labels] += 0.4
    return features


def pair_of(folder, *overrides):
    """A pair whose feature sets are all the planted one, and its rotation."""
    return planted_pair(folder, "axes-digits", [*TINY, *overrides], planted)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pair = pair_of(tmp_path_factory.mktemp("stages"))
    pair.works = list(works(pair))
    for work in pair.works:
        pair.run(work)
    return pair, pd.concat(pair.results(), ignore_index=True)


def test_every_probe_scores_every_feature_set_and_its_rotation_in_every_cell(made):
    _, table = made
    scores = table[table["metric"] == "accuracy"]
    counts = scores.groupby(["features", "protocol"]).size().unstack()
    assert set(counts.index) == {
        f"{turn}{of}" for turn in ("", "rotated-") for of in ("simclr", "ncl", "sae")
    }
    assert list(counts.columns) == ["axis-adam", "axis-l1", "axis-trees"]
    assert (counts == 2).all(axis=None)
    readings = table[table["protocol"] == "axis-l1"].groupby("metric").size()
    assert set(readings.index) == {"accuracy", "strength", "at_edge", "weights_used"}
    assert (readings == 6 * 2).all()


@pytest.mark.parametrize("probe", ["l1", "adam", "trees"])
@pytest.mark.parametrize("features", ["ncl", "rotated-ncl"])
def test_scores_are_those_of_the_probe_called_by_hand(made, probe, features):
    pair, table = made
    of, noisy = pair.bank.make(features), pair.noisy_labels
    fit = fit_axis_probe(probe, of.train, noisy.labels, K, of.test, pair.recipe.axes.settings, pair.seed)
    expected = (fit.predictions == pair.data.test.labels).float().mean(1)
    rows = table[(table["features"] == features) & (table["protocol"] == f"axis-{probe}")]
    assert rows.loc[rows["metric"] == "accuracy", "value"].tolist() == pytest.approx(expected, abs=1e-6)
    for name, values in fit.readings.items():
        assert rows.loc[rows["metric"] == name, "value"].tolist() == pytest.approx(values, rel=1e-5)


def test_the_contest_is_native_against_rotated_and_native_wins_where_classes_are_dimensions(made):
    pair, table = made
    contests = compare(table, margin=0.01, correctness={k: v[None] for k, v in pair.correctness().items()})
    for probe in ("l1", "adam", "trees"):
        row = primary(contests, f"axis-{probe}", "label-noise-symmetric", "sae", bootstrap=True)
        assert row["baseline"] == "rotated-sae"
        assert row["mean_diff"] > 0.05


def test_a_stage_is_made_anew_for_its_own_probe_and_labels_alone(tmp_path):
    def keys(*overrides):
        stages = [work.stage for work in works(pair_of(tmp_path, *overrides))]
        return {(stage.name, stage.settings["features"]): stage.key for stage in stages}

    def changed(*overrides):
        after = keys(*overrides)
        return {name for name, key in before.items() if after[name] != key}

    before = keys()
    assert changed("axes.settings.trees.n_trees=30") == {name for name in before if name[0] == "axis-trees"}
    assert changed("axes.settings.rows=200", "n_noise=2") == set(before)
    of_ncl = changed("pretrain.nonlinearity=relu")
    assert of_ncl == {name for name in before if name[1].endswith("ncl")}
    assert changed("axes.probes=[l1, adam, trees]", "tuned.per_decade=3") == set()
    assert {name for name, _ in keys("axes.probes=[adam]")} == {"axis-adam"}


@pytest.mark.parametrize(
    ("override", "message"),
    [("label_noise=null", "against label noise"), ("axes.probes=[l1,l1]", "each once")],
)
def test_axes_without_noisy_labels_or_with_a_probe_twice_are_refused(override, message):
    with pytest.raises(InputError, match=message):
        load_recipe("axes-digits", [override])
