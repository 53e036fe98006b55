"""The recipes that come with monosem: all load, and those of Table 1 say what the paper says."""

import pytest

from monosem.core.errors import InputError
from monosem.experiments.recipe_files import recipe_titles, shipped_recipes
from monosem.experiments.recipes import load_any_recipe, load_recipe, recipe_hash, recipe_of_run
from monosem.experiments.tuning_recipe import TuningRecipe

TABLE1 = ("table1-cifar100", "table1-imagenet100")
VARIANTS = {f"{name}-published": name for name in TABLE1}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads(name):
    recipe = load_any_recipe(name)
    assert recipe.title == recipe_titles()[name]
    assert isinstance(recipe, TuningRecipe) or recipe.margin == 0.01


@pytest.mark.parametrize(("name", "epochs", "batch"), [("table2-sst2", 20, 16), ("table2-dolly", 1, 4)])
def test_table_2_has_the_settings_of_appendix_a3(name, epochs, batch):
    recipe = load_any_recipe(name)
    assert recipe.base == "meta-llama/Llama-2-7b-chat-hf"
    (task,) = recipe.tasks.values()
    assert (task.n_train, task.n_test) == (5000, 1000)
    assert (task.tune.epochs, task.tune.batch_size, task.tune.lr) == (epochs, batch, 1e-4)
    assert recipe.adapters["lora"].targets == recipe.adapters["monolora"].targets == ("q_proj", "v_proj")
    assert (recipe.adapters["monolora"].kind, recipe.adapters["monolora"].nonlinearity) == (
        "monolora",
        "relu",
    )
    with pytest.raises(InputError, match="of kind tuning; run it"):
        load_recipe(name)


@pytest.mark.parametrize("name", TABLE1)
def test_table_1_has_the_settings_of_appendix_a1(name):
    recipe = load_recipe(name)
    encoder, pretrain = recipe.pretrain.encoder, recipe.pretrain
    assert (recipe.paper, recipe.data.name) == (name, name.removeprefix("table1-"))
    assert (encoder.backbone, encoder.width) == ("resnet18", 64)
    assert (encoder.projector_hidden, encoder.projector_out) == (16384, 2048)
    assert (pretrain.epochs, pretrain.batch_size, pretrain.weight_decay) == (200, 256, 1e-4)
    assert (pretrain.nonlinearity, pretrain.nonnegative_on, pretrain.minus_mean_abs) == ("relu", "raw", False)
    assert (recipe.sae.n_latents, recipe.sae.k) == (2048, 256)
    assert (recipe.published.epochs, recipe.published.loss) == (50, "cross_entropy")
    assert (recipe.label_noise.kind, recipe.n_encoders) == ("symmetric", 1)
    assert recipe.label_noise.levels == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@pytest.mark.parametrize(
    ("name", "stem", "lr", "image_size"),
    [("table1-cifar100", "cifar", 0.4, None), ("table1-imagenet100", "imagenet", 0.3, 224)],
)
def test_where_the_paper_is_silent_its_published_configuration_speaks(name, stem, lr, image_size):
    recipe = load_recipe(name)
    pretrain, views = recipe.pretrain, recipe.pretrain.views
    assert (pretrain.encoder.stem, pretrain.optimizer, pretrain.lr_per_256) == (stem, "lars", lr)
    assert (pretrain.warmup_epochs, pretrain.temperature) == (10.0, 0.2)
    assert (views.crop_scale, views.flip, views.grayscale, views.blur) == ((0.08, 1.0), 0.5, 0.2, 0.5)
    jitter = (views.jitter, views.brightness, views.contrast, views.saturation, views.hue)
    assert jitter == (0.8, 0.8, 0.8, 0.8, 0.2)
    if image_size:
        assert (recipe.data.image_size, recipe.data.storage) == (image_size, "disk")
        probe = recipe.published
        # Steps at epochs 60 and 80 of 50 epochs: none.
        assert (probe.optimizer, probe.lr, probe.weight_decay, probe.schedule) == (
            "sgd",
            1.5,
            0.0,
            "constant",
        )
    else:
        probe = recipe.published
        assert (probe.optimizer, probe.lr, probe.weight_decay, probe.schedule) == (
            "lars",
            0.4,
            1e-4,
            "cosine",
        )


@pytest.mark.parametrize(("name", "of_the_paper"), VARIANTS.items())
def test_the_published_variants_differ_where_the_published_code_does(name, of_the_paper):
    recipe, papers = load_recipe(name), load_recipe(of_the_paper)
    assert recipe.paper == of_the_paper
    assert recipe.pretrain.minus_mean_abs
    assert recipe.published == papers.published.replace(scale="raw")
    changed = {"nonlinearity", "nonnegative_on", "minus_mean_abs"}
    if name == "table1-cifar100-published":
        assert recipe.pretrain.nonlinearity == "rep_relu"
    else:
        assert (recipe.pretrain.nonlinearity, recipe.pretrain.epochs, recipe.pretrain.batch_size) == (
            "relu",
            100,
            128,
        )
        changed |= {"epochs", "batch_size"}
    assert recipe.pretrain.model_dump(exclude=changed) == papers.pretrain.model_dump(exclude=changed)
    rest = {"title", "pretrain", "published"}
    assert recipe.model_dump(exclude=rest) == papers.model_dump(exclude=rest)


def test_the_papers_table_is_about_symmetric_noise():
    with pytest.raises(InputError, match="`label_noise`: the paper's Table 1 is about symmetric noise"):
        load_recipe("table1-cifar100", ["label_noise.kind=asymmetric"])
    free = load_recipe("table1-cifar100", ["paper=null", "label_noise.kind=asymmetric"])
    assert free.label_noise.kind == "asymmetric"
    with pytest.raises(InputError, match="`paper`"):
        load_recipe("table1-cifar100", ["paper=table7"])


def test_a_recipe_is_the_same_wherever_checked_files_lie_and_another_where_folders_do():
    def hashes(name, *overrides):
        return [load_recipe(name).hash, load_recipe(name, overrides).hash]

    same = hashes("cifar100-small", "data.root=elsewhere", "data.download=true")
    assert same[0] == same[1]
    assert len(set(hashes("cifar100-small", "seed=1"))) == 2
    assert len(set(hashes("table1-imagenet100", "data.root=elsewhere"))) == 2


def test_a_holdout_that_is_not_set_leaves_a_recipe_its_hash():
    tree = load_recipe("digits").model_dump(mode="json")
    held_out = {**tree, "data": {**tree["data"], "holdout": 0.2}}
    before = {**tree, "data": {key: value for key, value in tree["data"].items() if key != "holdout"}}
    assert recipe_hash(tree) == recipe_hash(before) != recipe_hash(held_out)


@pytest.mark.parametrize(
    "name", ["digits", "fig4-cifar100", "table1-imagenet100", "shift-pacs", "few-shot-digits"]
)
def test_what_a_manifest_holds_is_the_recipe_again(name):
    recipe = load_recipe(name)
    again = recipe_of_run(recipe.model_dump(mode="json"), "manifest.json")
    assert again.hash == recipe.hash
    assert again.pretrain == recipe.pretrain
