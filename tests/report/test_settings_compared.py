from monosem.experiments.recipes import load_recipe
from monosem.report.settings_compared import departures_in_words, differing, from_the_papers

CIFAR = "table1-cifar100"


def resolved(*overrides, recipe=CIFAR):
    return load_recipe(recipe, overrides).model_dump(mode="json")


def test_differing_names_full_paths_and_missing_keys():
    a = {"x": 1, "deep": {"y": [1, 2], "same": 0}}
    b = {"x": 1, "deep": {"y": [1], "same": 0}, "new": True}
    assert differing(a, b) == {"deep.y": ([1, 2], [1]), "new": (None, True)}
    assert differing(a, a) == {}


def test_the_shipped_recipe_departs_from_nothing():
    assert departures_in_words(resolved(), CIFAR) == (
        "Settings: those of the recipe table1-cifar100, which follows the paper."
    )
    # How often, where from and what else: none of it moves a number of the table.
    free = ["seed=3", "n_encoders=6", "n_noise=1", "data.root=elsewhere", "margin=0.02", "tuned.per_decade=1"]
    assert from_the_papers(resolved(*free, "label_noise.levels=[0.9]"), CIFAR) == {}


def test_a_small_run_says_what_it_is():
    small = resolved("pretrain.epochs=8", "pretrain.encoder.width=16", "data.train_limit=5000", "sae.k=32")
    assert from_the_papers(small, CIFAR) == {
        "data.train_limit": (5000, None),
        "pretrain.encoder.width": (16, 64),
        "pretrain.epochs": (8, 200),
        "sae.k": (32, 256),
    }
    said = departures_in_words(small, CIFAR)
    assert said.startswith(
        "Settings that differ from those of the recipe table1-cifar100 (in brackets), which"
    )
    assert "data.train_limit 5000 (none), pretrain.encoder.width 16 (64), pretrain.epochs 8 (200)" in said


def test_the_published_variant_names_what_the_code_does_differently():
    assert from_the_papers(resolved(recipe="table1-cifar100-published"), CIFAR) == {
        "pretrain.nonlinearity": ("rep_relu", "relu"),
        "pretrain.nonnegative_on": ("normalised", "raw"),
        "pretrain.minus_mean_abs": (True, False),
        "published.scale": ("raw", "rms"),
    }


def test_keys_of_another_version_are_left_out():
    recipe = resolved("pretrain.epochs=8")
    del recipe["pretrain"]["weight_decay"]
    recipe["pretrain"]["gone"] = 1
    assert list(from_the_papers(recipe, CIFAR)) == ["pretrain.epochs"]
