"""Records from someone else are checked: one sentence with the file, the field, what it is and what was expected."""

import json
import re

import pytest
import torch
from making import configuration, work

from prunecca.errors import ConfigurationError, CorruptFile
from prunecca.storage import states
from prunecca.study.options import Options, Size
from prunecca.study.plan import Network
from prunecca.study.resolve import ResolvedProblem, load_network
from prunecca.study.run_directory import RunDirectory

PRUNED = Network("digits2", 0, 1)


def changed(value, path, new):
    """A copy of a record with one field changed."""
    copy = json.loads(json.dumps(value))
    *way, last = path
    inner = copy
    for step in way:
        inner = inner[step]
    inner[last] = new
    return copy


CONFIGURATIONS = [
    (("problems", "digits2", "size", "levels"), 10**9, "levels is 1000000000; expected less than or equal to 1000000"),
    (("problems", "digits2", "size", "levels"), -1, "levels is -1; expected greater than or equal to 0"),
    (("problems", "digits2", "size", "levels"), 1.5, "levels is 1.5; expected a valid integer"),
    (("problems", "digits2", "size", "levels"), True, "levels is True; expected a valid integer"),
    (("problems", "digits2", "size", "levels"), 10**6, "it asks for 2000002 networks; expected at most 50000"),
    (("problems", "digits2", "size", "levels"), 20000, "levels x replicates"),
    (("problems", "digits2", "size", "replicates"), 0, "replicates is 0; expected greater"),
    (("problems", "digits2", "size", "more"), 0, "size.more is 0; expected"),
    (("problems", "digits2", "size"), None, "digits2.size is None; expected"),
    (("problems", "digits2"), [], r"problems.digits2 is \[\]; expected"),
    (("problems", "digits2", "settings", "name"), "../x", "settings.name is '../x'; expected"),
    (("problems", "digits2", "settings", "name"), "cifar2", "settings.name is 'cifar2'; expected 'digits2'"),
    (("problems", "digits2", "settings", "rates"), {"conv": 2.0, "fc": 0.1}, "rates.conv is 2.0; expected less than 1"),
    (("problems", "digits2", "settings", "classes"), 10**9, "classes is 1000000000; expected"),
    (("problems", "digits2", "settings", "conv"), "9" * 10**6, "settings.conv is '9{59}; expected"),
    (("problems",), [], r"problems is \[\]; expected"),
    (("format",), "2", "format is '2'; expected a valid integer"),
    (("extra",), 1, "extra is 1; expected"),
    (("options",), None, "options is None; expected"),
    (("options", "epochs"), "10", "epochs is '10'; expected a valid integer"),
    (("options", "epochs"), 0, "epochs is 0; expected 1 to 1000000"),
    (("options", "epochs"), 10**30, "epochs is 10{30}; expected 1 to"),
    (("options", "seed"), 10**400, "seed is "),
    (("options", "metrics"), "svcca", "metrics is 'svcca'; expected a valid array"),
    (("options", "metrics"), [[["svcca"]]], "metrics"),
    (("options", "unknown"), 1, "options has the field 'unknown'; expected only seed"),
    (("options", "recipe", "survivors"), "x", "survivors is 'x'; expected one of"),
    (("options", "recipe", "rewind_epoch"), None, "recipe.rewind_epoch is None; expected a valid integer"),
]


@pytest.mark.parametrize(("path", "new", "words"), CONFIGURATIONS)
def test_a_configuration_that_cannot_be_is_refused_with_the_field_and_both_values(tmp_path, path, new, words):
    states.write_json(tmp_path / "config.json", changed(configuration(), path, new))
    for use in (lambda run: run.configure(configuration()), RunDirectory.configuration, RunDirectory.plan):
        with pytest.raises(ConfigurationError, match=words) as error:
            use(RunDirectory(tmp_path))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000
        assert str(tmp_path / "config.json") in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


NAMES = ["../../x", "..", ".", "/etc/x", "a/b", "-x", "", "a\nb", "a\0b", "x" * 200, "ä", "\ud800", ".lock", "[red]x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_whose_name_could_lead_elsewhere_is_refused(tmp_path, name):
    config = configuration()
    config["problems"] = {name: changed(config["problems"]["digits2"], ("settings", "name"), name)}
    states.write_json(tmp_path / "config.json", config)
    with pytest.raises(ConfigurationError, match="cannot be used: problems"):
        RunDirectory(tmp_path).plan(problems=False)
    with pytest.raises(ConfigurationError):
        RunDirectory(tmp_path).configure(configuration())


@pytest.mark.parametrize(
    ("field", "value"),
    [("conv", "99999999* MP"), ("fc", "999999999"), ("network", "vit_h_14"), ("dataset", "any"), ("image_size", 4096)],
)
def test_a_network_that_would_fill_the_memory_is_refused(tmp_path, field, value):
    config = changed(configuration(), ("problems", "digits2", "settings", field), value)
    states.write_json(tmp_path / "config.json", config)
    with pytest.raises(ConfigurationError, match=f"{field} of digits2 is {value!r}; expected".replace("*", r"\*")):
        RunDirectory(tmp_path).plan()


def test_an_unknown_problem_is_refused(tmp_path):
    config = configuration()
    config["problems"] = {"other": changed(config["problems"]["digits2"], ("settings", "name"), "other")}
    states.write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match="there is no problem 'other'"):
        RunDirectory(tmp_path).plan()


RECORDS = [
    (("files",), {"../../outside/mine": "0" * 64}, "files"),
    (("files",), {}, "does not list state.safetensors, which every network has"),
    (("files",), {"other": "0" * 64}, "lists the file 'other'; expected only state.safetensors"),
    (("files", "state.safetensors"), "x", "files.state.safetensors is 'x'; expected"),
    (("summary", "problem"), "../../x", "summary.problem is '../../x'; expected"),
    (("summary", "density"), 10**300, "summary.density is 10{59}; expected"),
    (("summary",), [], r"summary is \[\]; expected"),
    (("layers",), [{"layer": "a", "density": "x"}], "layers.0.density is 'x'; expected"),
    (("epochs",), [{"../x": 1.0}], "epochs.0"),
    (("parents",), 1, "parents is 1; expected"),
]


@pytest.mark.parametrize(("path", "new", "words"), RECORDS)
def test_a_record_that_cannot_be_is_named_and_its_network_made_again(tmp_path, path, new, words):
    said = []
    run = RunDirectory(tmp_path / "run", said.append)
    run.configure(configuration(levels=1, replicates=1, controls=0))
    work(run)
    record = run.path(PRUNED, "piece.json")
    states.write_json(record, changed(states.read_json(record), path, new))
    assert PRUNED not in run.finished()
    assert f"{record}" in said[0]
    assert re.search(words, said[0])
    assert work(run) == [PRUNED]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, '{"sha256": NaN}', '{"a": 1e999, "sha256": ""}', "1" * 5000]
)
def test_text_that_no_parser_likes_is_no_record(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"config\.json is not a whole record"):
        RunDirectory(tmp_path).configuration()


@pytest.mark.parametrize(
    "owner",
    [
        b"",
        b"[" * 10_000,
        b'{"pid": 1}',
        json.dumps({"host": "\x1b[31mx", "pid": 1, "since": "2", "token": "t"}).encode(),
    ],
)
def test_an_owner_that_says_something_else_is_not_repeated(tmp_path, owner):
    run = RunDirectory(tmp_path)
    with run.own():
        (tmp_path / ".owner").write_bytes(owner)
        assert run._owner() == "another process"


def test_starts_that_are_something_else_are_begun_anew(tmp_path):
    run = RunDirectory(tmp_path)
    run.configure(configuration())
    states.write_json(tmp_path / "environment.json", {"starts": [[{"deep": {}}]], "configuration": {}})
    run.note_environment({"device": "cpu"})
    assert states.read_json(tmp_path / "environment.json")["starts"] == [{"device": "cpu"}]


@pytest.mark.parametrize("setting", [None, 1, {}, {"conv": "999999999"}, "settings"])
def test_a_state_whose_settings_are_something_else_is_refused(tmp_path, setting):
    states.save_state(tmp_path / "state.safetensors", {"w": torch.ones(2)}, {"problem": "digits2", "setting": setting})
    with pytest.raises(ConfigurationError, match="the settings of a problem"):
        load_network(tmp_path / "state.safetensors")


def test_settings_of_another_network_are_refused():
    settings = configuration()["problems"]["digits2"]["settings"]
    assert ResolvedProblem.from_json(settings).problem.conv == settings["conv"]
    with pytest.raises(ConfigurationError, match="conv of digits2 is '8'; expected"):
        ResolvedProblem.from_json({**settings, "conv": "8"})
    with pytest.raises(ConfigurationError, match="have 'more'; expected only"):
        ResolvedProblem.from_json({**settings, "more": 1})


def test_a_study_has_a_bounded_number_of_networks():
    assert Size(100, 99, 99).levels == 100
    with pytest.raises(ConfigurationError, match=r"is 1000001000001 networks; expected at most 10000"):
        Size(10**6, 10**6, 10**6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", 2**63), ("patience", 10**20), ("image_size", 10**6), ("train_images", 10**20), ("images", 10**20),
        ("dimension_images", 10**20), ("layers", ()), ("layers", ("",)), ("metrics", ("svcca", "")), ("learning_rate", float("nan")),
        ("weight_decay", float("inf")), ("dropout", float("nan")), ("conv_rate", float("nan")), ("variance", float("nan")), ("trim", float("nan")),
    ],
)  # fmt: skip
def test_absurd_options_are_refused_by_name(option, value):
    with pytest.raises(ConfigurationError, match=f"^{option.replace('_', '-')} is .*; expected "):
        Options.from_flags(**{option: value})
