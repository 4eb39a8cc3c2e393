"""What runs that lie side by side are called: by the recipe and the options in which they differ."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..pruning.recipe import RECIPES, Recipe
from ..study.options import Options
from ..text import printable
from .run import ReportedRun

LONGEST = 60  # characters of a label made of options; where it would be longer the folder's name says more

# They belong to the problem and the network, not to the way of pruning.
_NOT_OF_A_WAY = {"rates", "levels", "epochs", "seed"}
# They decide what is measured, not the networks.
_MEASURED = {"metrics", "variance", "trim", "images", "dimension_images", "layers"}
_SETTINGS: dict[str, tuple[str, ...]] = {"epochs": ("epochs",), "batch_size": ("batch",), "patience": ("patience",)}
_SETTINGS |= {"conv_rate": ("rates", "conv"), "fc_rate": ("rates", "fc")}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of pruning as people name it.

    Args:
        name: the recipe of ``RECIPES`` that is nearest.
        fields: those of its recipe that say how is pruned.
        own: the fields in which it is not the recipe of that name.
    """

    name: str
    fields: dict[str, Any]
    own: frozenset[str]


def way_of(options: Options) -> Way:
    """The recipe of the literature that the options stand for, or the one from which they differ least."""
    fields = _fields(options.recipe)
    ways = []
    for name in RECIPES:
        if (name == "no_pruning") != (options.conv_rate == options.fc_rate == 0):
            continue
        named = _fields(Options.from_flags(recipe=name).recipe)
        ways.append(Way(name, fields, frozenset(key for key in fields if fields[key] != named[key])))
    return min(ways, key=lambda way: len(way.own))


def labels(runs: Sequence[ReportedRun]) -> list[str]:
    """A label for every run, none like another.

    It has the name of the recipe where the runs have several, then the options in which the run is not like most of
    them. Where that says nothing, or is as long as a paragraph, it is the name of the folder.

    Args:
        runs: in the order in which they are laid out.
    """
    found = [way_of(Options.from_json(run.configuration["options"])) for run in runs]
    several = len({way.name for way in found}) > 1
    rows = {name: [_text(way.fields[name]) for way in found] for name in found[0].fields}
    if several:  # what the name says already need not be said again
        rows = {
            name: [text if name in way.own else "" for text, way in zip(texts, found, strict=True)]
            for name, texts in rows.items()
        }
    rows |= {name: texts for name, texts in _options(runs).items() if name not in _MEASURED}
    made = []
    for number, way in enumerate(found):
        parts = [f"{_word(name)} {texts[number]}" for name, texts in rows.items() if texts[number] in _rare(texts)]
        parts = [way.name, *parts] if several or not parts else parts
        made.append(printable(", ".join(parts)))
    names = [printable(run.name) for run in runs]
    made = [text if len(text) <= LONGEST else name for text, name in zip(made, names, strict=True)]
    if len(set(made)) == 1:
        made = names
    counts = Counter(made)
    made = [
        f"{text} ({name})" if counts[text] > 1 and text != name else text
        for text, name in zip(made, names, strict=True)
    ]
    return [_numbered(made, number) for number in range(len(made))]


def _rare(texts: Sequence[str]) -> set[str]:
    """The values, other than none, that not more than half of the runs have."""
    return {text for text, count in Counter(texts).items() if text and 2 * count <= len(texts)}


def _numbered(texts: Sequence[str], place: int) -> str:
    """Of equal texts the second is told from the first by a number."""
    before = texts[:place].count(texts[place])
    return f"{texts[place]}, {before + 1}" if before else texts[place]


def differences(runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """Everything in which the runs differ, by name: a value in words for each run; the nearest recipe comes first."""
    found = [way_of(Options.from_json(run.configuration["options"])) for run in runs]
    rows = {"recipe": [way.name for way in found]}
    rows |= {_word(name): [_text(way.fields[name]) for way in found] for name in found[0].fields}
    rows |= {_word(name): values for name, values in _options(runs).items()}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _options(runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """The options, apart from the recipe, that are not the same in all runs: a value in words for each run."""
    flags = []
    for run in runs:
        options = Options.from_json(run.configuration["options"])
        settings: Any = next(iter(run.configuration["problems"].values()), {"settings": {}})["settings"]
        values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        del values["recipe"]
        flags.append({name: _text(_resolved(name, value, settings)) for name, value in values.items()})
    return {name: [own[name] for own in flags] for name in flags[0] if len({own[name] for own in flags}) > 1}


def _resolved(name: str, value: object, settings: Any) -> object:
    """What the problem itself has where an option is left to it."""
    if value is not None or name not in _SETTINGS:
        return value
    for key in _SETTINGS[name]:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _fields(recipe: Recipe) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(recipe).items() if name not in _NOT_OF_A_WAY}


def _word(name: str) -> str:
    return name.replace("_", " ")


def _text(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
