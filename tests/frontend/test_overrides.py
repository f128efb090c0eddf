"""What `dslc.load(..., name=value)` and `--set name=value` may replace, and what they may not."""

import pytest

import dslc

TEXT = """
model M:
    dims d=4
    let h = d // 2, kind = "plain", rate = 0.1
    input x[2, d]
    y = linear(x, h)
    if kind == "squared":
        y = y ** 2
    loss mean(y ** 2)
    output y

train:
    steps 5
    optimizer adam(lr=rate)
"""


def test_a_text_of_one_line_may_be_longer_than_the_name_of_any_file():
    assert dslc.load(f"model M: input x[4]; output {'x + ' * 80}x").name == "M"


def test_values():
    assert dslc.load(TEXT, d=8).checked.parameters[0].type.shape == (8, 4)
    assert dslc.load(TEXT, d="2 * 3").checked.parameters[0].type.shape == (6, 3)
    assert dslc.load(TEXT, h="d * 2").checked.parameters[0].type.shape == (4, 8)
    for given in ("squared", '"squared"'):
        assert dslc.load(TEXT, kind=given).checked.frame.names["kind"] == "squared"
    settings = dslc.load(TEXT, memory="2 GiB", stop="3 min", steps=7, clip="norm(0.5)").checked.settings
    assert (settings.memory, settings.stop, settings.steps, settings.clip.args) == (2**31, 180, 7, (0.5,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dd": 3}, "the model has no dim, let or train key 'dd'; did you mean 'd'?"),
        ({"x": 3}, "the model has no dim, let or train key 'x'"),
        ({"d": 2.5}, "a size must be an integer, this is 2.5"),
        ({"d": -1}, "a size must not be negative"),
        ({"d": "two"}, "--set d:1:1: name error: unknown name 'two'"),
        ({"d": "1 +"}, "--set d:1:4: syntax error"),
        ({"d": "2**70"}, "is absurd"),
        ({"d": None}, "a size must be an integer"),
        ({"rate": "cosine(0.1, 2)"}, "'rate' must be known at compile time"),
        ({"steps": 0}, "steps takes a whole number above 0, this is 0"),
        ({"seed": 1.5}, "seed takes a whole number"),
        ({"epochs": "inf"}, "epochs takes a number above 0"),
        ({"memory": "2"}, "a quantity with a unit is needed, this is 2"),
        ({"memory": "2 GiBs"}, "unknown unit 'GiBs'; did you mean 'GiB'?"),
        ({"average": "ema(2)"}, "average ema takes one number between 0 and 1"),
        ({"optimizer": "sgdd(lr=0.1)"}, "unknown optimizer 'sgdd'; did you mean 'sgd'?"),
        ({"optimizer": 3}, "the optimizer is a call, this is 3"),
        ({"data": "digit()"}, "unknown data source 'digit'; did you mean 'digits'?"),
    ],
)
def test_errors(given, message):
    with pytest.raises(dslc.Error) as found:
        dslc.load(TEXT, **given)
    assert message in str(found.value)
