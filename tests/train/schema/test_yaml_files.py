import datetime

import pytest

from rstg_pyg.train.schema.yaml_files import MOST_CHARACTERS, YAMLError, load_yaml

#: Nine times nine times ... values from a few lines.
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


def nested(depth):
    return "[" * depth + "1" + "]" * depth


def test_plain_values():
    text = "a: {b: [1, 2.5, true, null], c: x}\nd: 2020-01-02\n"
    values = {"a": {"b": [1, 2.5, True, None], "c": "x"}, "d": datetime.date(2020, 1, 2)}
    assert load_yaml(text) == values
    assert load_yaml("") is None
    assert load_yaml("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS


def test_aliases_repeat_values():
    assert load_yaml("a: &x {b: 1}\nc: *x\nd: [*x, *x]") == {
        "a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, {"b": 1}],
    }  # fmt: skip


def test_how_deep_values_may_be():
    value = load_yaml(nested(38))
    for _ in range(38):
        (value,) = value
    assert value == 1
    for text in (nested(39), nested(5000), f"a: &x {nested(20)}\nb: {nested(20).replace('1', '*x')}"):
        with pytest.raises(YAMLError, match="expected at most 40 sections within each other"):
            load_yaml(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is there twice"),
        ("a:\n  b: {c: 1, c: 1}", "line 2, column 13: the key 'c' is there twice"),
        ("? [1, 2]\n: 3", "line 1, column 3: expected a name as key"),
        ("a: &x [1, *x]", "line 1, column 4: an alias leads into itself"),
        (BOMB, "expected at most 20,000 values, with those that aliases repeat"),
        ("x" * (MOST_CHARACTERS + 1), "expected at most 200,000 characters .got 200,001"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [1", "expected ',' or ']'"),
        ("a: 1\n--- b", "expected a single document"),
        ("a: 2020-13-45", "month must be in 1..12"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_wrong_is_said_in_a_line(text, message):
    with pytest.raises(YAMLError, match=message) as e:
        load_yaml(text)
    assert len(str(e.value).splitlines()) == 1
