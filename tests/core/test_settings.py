import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.core.errors import InputError
from monosem.core.settings import Settings, parse, read_yaml_mapping, with_overrides


class Inner(Settings):
    k: int = 3
    scale: tuple[float, float] = (0.1, 1.0)


class Outer(Settings):
    inner: Inner = Inner()
    lr: float = 1.0
    name: str | None = None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.kk=5", "unknown key `inner.kk`"),
        ("inner.k=5.5", "`inner.k`"),
        ("inner.k=None", "`inner.k`: input should be a valid integer (got 'None')"),
        ("inner.k=true", "`inner.k`"),
        ("inner.scale=[1]", "`inner.scale.1`"),
        ("lr=fast", "`lr`"),
        ("name=3", "`name`"),
        ("inner.k.deep=3", "inner.k holds a value"),
        ("inner.k", "write it as key=value"),
        ("lr=[1", "not valid YAML"),
    ],
)
def test_wrong_settings_are_refused_with_their_full_path(override, message):
    with pytest.raises(InputError) as caught:
        parse(Outer, with_overrides({"inner": {"k": 1}}, [override]), "recipe x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_change_only_what_they_name_and_leave_the_tree_alone():
    tree = {"inner": {"k": 1}, "lr": 2}
    changed = parse(Outer, with_overrides(tree, ["inner.scale=[0.5, 2]", "lr=1e-4"]), "x")
    assert changed == Outer(inner=Inner(k=1, scale=(0.5, 2.0)), lr=1e-4)
    assert tree == {"inner": {"k": 1}, "lr": 2}


def test_the_word_none_is_a_string_and_null_is_null():
    assert parse(Outer, with_overrides({}, ["name=None"]), "x").name == "None"
    assert parse(Outer, with_overrides({"name": "a"}, ["name=null"]), "x").name is None


def test_settings_cannot_be_changed_after_the_fact():
    with pytest.raises(ValueError, match="frozen"):
        Outer().lr = 3.0  # type: ignore[misc]


def test_replace_is_validated():
    assert Outer().replace(lr=0.5).lr == 0.5
    with pytest.raises(ValueError, match="extra"):
        Outer().replace(lrr=0.5)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_the_way_through_an_override(value):
    assert parse(Outer, with_overrides({}, [f"lr={value!r}"]), "x").lr == value


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "a: [1"])
def test_a_recipe_that_is_no_mapping_is_refused(text):
    with pytest.raises(InputError, match=r"my\.yaml"):
        read_yaml_mapping(text, "my.yaml")
