"""What the records of a run directory may hold: they are checked when they are read, since they may come from someone else.

Two configurations never mix in one run directory: ``merge_configuration``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from ..data.splits import same_data
from ..errors import ConfigurationError, CorruptFile
from .options import MOST, Options, Size

MOST_PROBLEMS = 128
MOST_OF_ALL = 50_000  # networks

_LONGEST_VALUE = 60  # characters of what was given, in an error

# What becomes part of a path.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
_Text = Annotated[str, StringConstraints(max_length=500)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Number = Annotated[int, Field(ge=0, le=MOST)]
_Positive = Annotated[int, Field(ge=1, le=MOST)]
_Parameters = Annotated[int, Field(ge=0, le=10**13)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Rate = Annotated[float, Field(ge=0, lt=1)]
_Plain = bool | int | float | _Text | None

_Model = TypeVar("_Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class _Size(_Strict):
    levels: _Number
    replicates: _Positive
    controls: _Number
    first_replicate: _Number = 0


class _Rates(_Strict):
    conv: _Rate
    fc: _Rate


class _Settings(_Strict):
    """A problem with the options applied; the first format, which can still be reported, had less and other fields."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Plain]

    name: Name
    dataset: _Text
    classes: Annotated[int, Field(ge=2, le=100_000)]
    conv: _Text = ""
    fc: _Text = ""
    network: Name | None = None
    epochs: _Positive
    batch: _Positive
    patience: _Positive | None = None
    validation: _Rate = 0.0
    rates: _Rates
    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    train_images: Annotated[int, Field(ge=2)] | None = None
    test_images: Annotated[int, Field(ge=2)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    data: _Text | None = None


class _Problem(_Strict):
    size: _Size
    settings: _Settings


class _Configuration(_Strict):
    format: _Number
    options: dict[Name, _Plain | list[_Plain] | dict[Name, _Plain | dict[Name, _Plain]]]
    problems: Annotated[dict[Name, _Problem], Field(max_length=MOST_PROBLEMS)]


class _Summary(_Strict):
    density: _Fraction
    parameters_left: _Parameters | None = None
    test_accuracy: _Fraction
    test_loss: float | None = None
    epochs: _Number | None = None
    best_epoch: _Number | None = None
    digest: _Digest | None = None
    split: _Text | None = None


class _Layer(_Strict):
    layer: _Text
    parameters: _Parameters | None = None
    parameters_left: _Parameters | None = None
    density: _Fraction


class _Network(_Strict):
    summary: _Summary
    layers: Annotated[list[_Layer], Field(max_length=10_000)]
    epochs: Annotated[list[dict[Name, float]], Field(max_length=MOST)]
    files: dict[Name, _Digest]
    parents: Annotated[dict[_Text, _Text], Field(max_length=2)]


class _Start(_Strict):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Plain | list[_Plain]]

    gpus: list[_Text] | None = None


class _Environment(_Strict):
    model_config = ConfigDict(extra="ignore")  # the copy of the configuration is checked where it is used

    starts: Annotated[list[_Start], Field(max_length=10_000)]


class _Owner(_Strict):
    host: Name
    pid: Annotated[int, Field(ge=0)]
    since: Annotated[str, StringConstraints(pattern=r"^[0-9T:+.-]{1,40}$")]
    token: Name


def check_configuration(value: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a ``config.json``, as it was given.

    Raises:
        ConfigurationError: it holds what no study can do; the sentence names the field.
    """
    try:
        found = _Configuration.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(f"{path} cannot be used: {_sentence(error)}") from None
    networks = sum(1 + p.size.levels * p.size.replicates + p.size.controls for p in found.problems.values())
    if networks > MOST_OF_ALL:
        raise ConfigurationError(
            f"{path} cannot be used: it asks for {networks} networks; expected at most {MOST_OF_ALL}"
        )
    for name, problem in found.problems.items():
        if problem.settings.name != name:
            raise ConfigurationError(
                f"{path} cannot be used: problems.{name}.settings.name is {problem.settings.name!r}; expected {name!r}"
            )
    if "recipe" in value["options"]:
        check_options(Options, value["options"], f"{path}: options")
    try:
        Options.from_json(value["options"])
        for problem in value["problems"].values():
            Size(**problem["size"])
    except (TypeError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be used: {error}") from None
    return dict(value)


def merge_configuration(old: Mapping[str, Any] | None, new: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration of a run directory after `new` is asked for in it.

    Both have the keys ``format``, ``options`` and ``problems``: name -> {``size``, ``settings``}. A study may grow in problems, levels,
    replicates and controls; everything else must be equal.

    Raises:
        ConfigurationError: an option differs; the sentence names it with both values.
    """
    if old is None:
        return dict(new)
    if old.get("format") != new["format"]:
        raise ConfigurationError(
            f"{where} was made by another version (format {old.get('format')}, this one writes {new['format']}); "
            "choose another --out"
        )
    _compare_options(Options.from_json(old["options"]), Options.from_json(new["options"]), where)
    problems = dict(old["problems"])
    for name, problem in new["problems"].items():
        if name in problems:
            _compare(problems[name]["settings"], problem["settings"], where, f" for {name}")
            size = Size(**problems[name]["size"]).merged(Size(**problem["size"]))
            problem = {"size": dataclasses.asdict(size), "settings": problem["settings"]}
        problems[name] = problem
    return {"format": old["format"], "options": old["options"], "problems": problems}


def _compare_options(old: Options, new: Options, where: str) -> None:
    _compare(old.flags(), new.flags(), where, "")
    _compare(dataclasses.asdict(old.recipe), dataclasses.asdict(new.recipe), where, "")


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], where: str, whose: str) -> None:
    for key in [*new, *(key for key in old if key not in new)]:
        if key == "data" and key in old and key in new:
            if not same_data(str(old[key]), str(new[key])):
                raise ConfigurationError(
                    f"the images{whose} are not those that {where} was made with; give the same --data, or another --out"
                )
        elif old.get(key) != new.get(key):
            option = key.replace("_", "-")
            raise ConfigurationError(
                f"{where} was made with {option} = {_show(old.get(key))}{whose}, and now {option} = {_show(new.get(key))} is asked for; "
                "choose another --out, or the old value to continue"
            )


def check_settings(value: object, what: str) -> None:
    """Check a problem with the options applied; ``what`` it is called in errors.

    Raises:
        ConfigurationError: it is something else; the sentence names the field.
    """
    try:
        _Settings.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(f"{what} cannot be used: {_sentence(error)}") from None


def check_network(
    value: Mapping[str, Any], path: Path, names: tuple[str, ...], needed: tuple[str, ...]
) -> dict[str, Any]:
    """The content of a ``piece.json``.

    Args:
        value: what was read.
        path: from where.
        names: the files that it may list.
        needed: those that it must list.

    Returns:
        The value, as it was given.

    Raises:
        CorruptFile: it is not the record of a network; the sentence names the field.
    """
    found = _checked(_Network, value, path)
    odd = [name for name in found.files if name not in names]
    if odd:
        raise CorruptFile(f"{path} lists the file {odd[0]!r}; expected only {', '.join(names)}")
    missing = [name for name in needed if name not in found.files]
    if missing:
        raise CorruptFile(f"{path} does not list {missing[0]}, which every network has")
    return dict(value)


def check_environment(value: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The starts in an ``environment.json``.

    Raises:
        CorruptFile: it holds something else; the sentence names the field.
    """
    _checked(_Environment, value, path)
    return list(value["starts"])


def check_owner(text: bytes) -> dict[str, Any]:
    """Who holds a run directory.

    Raises:
        ValueError: the text does not say it.
    """
    return _Owner.model_validate_json(text).model_dump()


def check_options(kind: type[Any], value: Mapping[str, Any], what: str) -> None:
    """Check that the fields of a dataclass have their types.

    Args:
        kind: the dataclass, whose own checks come after this one.
        value: its fields by name.
        what: they are called in errors.

    Raises:
        ConfigurationError: a field is unknown or of another type; the sentence names it.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    odd = [name for name in value if name not in known]
    if odd:
        raise ConfigurationError(f"{what} has the field {odd[0]!r:.60}; expected only {', '.join(known)}")
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigurationError(f"{what} cannot be used: {_sentence(error)}") from None


def is_name(text: object) -> bool:
    """Whether a text may become part of the name of a file."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


_NAME: TypeAdapter[str] = TypeAdapter(Name)


def _checked(model: type[_Model], value: Mapping[str, Any], path: Path) -> _Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise CorruptFile(f"{path} is no record of ours: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    """The first field that is wrong, what it is and what was expected."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "value_error":  # a sentence of ours
        return first["msg"].removeprefix("Value error, ")
    field = ".".join(str(part)[:_LONGEST_VALUE] for part in first["loc"]) or "it"
    expected = first["msg"].removeprefix("Input should be ")
    return f"{ascii(field)[1:-1]} is {first['input']!a:.{_LONGEST_VALUE}}; expected {expected}"


def _show(value: object) -> str:
    if value is None:
        return "(default)"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
