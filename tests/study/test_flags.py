"""Options as flags and as JSON, and what they refuse."""

import json

import pytest

from prunecca.errors import ConfigurationError
from prunecca.study.options import Options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("rewind_epoch", -1), ("rewind_optimizer", "keep"), ("scope", "tensor"), ("retrain", "no"),
        ("conv_rate", 1.0), ("fc_rate", -0.1), ("dropout", 1.0), ("learning_rate", 0.0), ("weight_decay", -1.0),
        ("batch_size", 1), ("batch_size", 10**20), ("seed", -1), ("learning_rate", float("inf")), ("criterion", "x"), ("patience", 0), ("train_images", 1), ("test_images", 1), ("evaluate_every", 0), ("precision", "half"), ("images", 1), ("variance", 0.0), ("trim", 1.5),
        ("metrics", ()),
    ],
)  # fmt: skip
def test_option_that_cannot_be_is_refused_by_its_name(option, value):
    with pytest.raises(ConfigurationError, match=rf"^{option.replace('_', '-')} is .*; expected "):
        Options.from_flags(**{option: value})


def test_options_round_trip_through_json():
    options = Options.from_flags(epochs=7, metrics=("svcca",), layers=("conv*",), trim=0.98, retrain="lr_rewind")
    assert Options.from_json(json.loads(json.dumps(options.as_json()))) == options
    assert Options.from_flags(**options.flags()) == options


def test_options_of_the_format_before_are_understood_for_reports():
    old = {"epochs": 10, "rewind_epoch": 2, "retrain": "finetune", "metrics": ["svcca"], "one_shot": True}
    expected = Options.from_flags(epochs=10, rewind_epoch=2, retrain="finetune", metrics=("svcca",), one_shot=True)
    assert Options.from_json(old) == expected
