"""Networks and data of the user's own: made by functions of their modules, by libraries, or from a folder on disk."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from torch import Tensor, nn

from .._arrays import memory_of
from ..errors import ConfigurationError
from ..storage.state_dicts import Misfit
from ..storage.weights import read_checkpoint
from ..text import printable

_MODELS = "expected package.module:make, torchvision:NAME, timm:NAME or hf:FOLDER"


def load_networks(model: str, files: Sequence[Path]) -> list[nn.Module]:
    """A network for each file, made as ``model`` says, with the weights of the file.

    Args:
        model: ``package.module:make``, whose ``make()`` gives a module; ``torchvision:NAME``, ``timm:NAME``, or
            ``hf:FOLDER``, where files may be folders of ``save_pretrained`` too.
        files: as ``storage.weights.read_checkpoint`` takes them.

    Raises:
        ConfigurationError: there is no such module, function, library or model; what is made is no module; weights that
            do not fit it.
    """
    library, colon, name = model.partition(":")
    if not colon or not library or not name:
        raise ConfigurationError(f"--model is {model!r}; {_MODELS}")
    if library == "hf":
        return [_pretrained(name, file) for file in files]
    makers: dict[str, Callable[[str], nn.Module]] = {"torchvision": _torchvision, "timm": _timm}
    if library in makers:
        return [_filled(makers[library](name), file, model) for file in files]
    make = _named(model, "--model")
    networks: list[nn.Module] = []
    for file in files:
        made = make if isinstance(make, nn.Module) else _called(make, model, "a module")
        if not isinstance(made, nn.Module):
            raise ConfigurationError(f"--model {model} gave a {type(made).__name__}; expected a torch.nn.Module")
        if isinstance(make, nn.Module) or any(made is other for other in networks):
            made = copy.deepcopy(made)  # each file has weights of its own
        networks.append(_filled(made, file, model))
    return networks


def load_batches(loader: str) -> Any:
    """What ``package.module:make_loader`` gives: batches, or a data set.

    Raises:
        ConfigurationError: there is no such module or function, or it gives nothing.
    """
    found = _named(loader, "--loader")
    batches = _called(found, loader, "batches") if callable(found) else found
    if batches is None or isinstance(batches, nn.Module):
        raise ConfigurationError(
            f"--loader {loader} gave a {type(batches).__name__}; expected a DataLoader, or batches"
        )
    return batches


def _named(spec: str, flag: str) -> Any:
    """What a name after a colon stands for in a module, which may lie in the current directory as for ``python -m``."""
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise ConfigurationError(f"{flag} is {spec!r}; expected package.module:name")
    if "/" in module or module.endswith(".py"):
        as_module = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{flag} names a file, {module}; expected a module, as in {as_module}:{name}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"{flag} {spec}: there is no module {error.name!r}, neither in {here} nor among the installed packages"
            ) from error
        raise ConfigurationError(f"{flag} {spec}: {module} cannot be imported, for it needs {error.name}") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{flag} {spec}: {module} cannot be imported ({_in_short(error)})") from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = sorted(key for key, value in vars(found).items() if callable(value) and key[0] != "_")
            has = f"; it has {', '.join(known[:8])}" if known else ""
            raise ConfigurationError(f"{flag} {spec}: {module} has no {name!r}{has}")
        found = getattr(found, part)
    return found


def _called(function: Any, spec: str, what: str) -> Any:
    if not callable(function):
        raise ConfigurationError(f"{spec} is of type {type(function).__name__}; expected a function that gives {what}")
    try:
        return function()
    except Exception as error:
        raise ConfigurationError(
            f"{spec} failed ({_in_short(error)}); expected a function without arguments that gives {what}"
        ) from error


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ConfigurationError(f"torchvision has no model {name!r}; expected one of torchvision.models.list_models()")
    model: nn.Module = get_model(name, weights=None)
    return model


def _timm(name: str) -> nn.Module:
    timm = _library("timm", f"timm:{name}")
    if not timm.is_model(name):
        raise ConfigurationError(f"timm has no model {name!r}; expected one of timm.list_models(), without a source")
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _pretrained(folder: str, file: Path) -> nn.Module:
    """A model of transformers: of the folder ``file``, or as the configuration in ``folder`` with the weights of ``file``."""
    transformers = _library("transformers", f"hf:{folder}")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    own = (file / "config.json").is_file()
    source = file if own else Path(folder)
    if not (source / "config.json").is_file():
        raise ConfigurationError(
            f"hf:{folder} has no config.json; expected a folder made by save_pretrained, for nothing is downloaded"
        )
    try:
        if not own:
            config = transformers.AutoConfig.from_pretrained(str(source), local_files_only=True)
            return _filled(transformers.AutoModel.from_config(config), file, f"hf:{folder}")
        model, told = transformers.AutoModel.from_pretrained(
            str(source), local_files_only=True, output_loading_info=True
        )
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"transformers cannot load {source} ({_in_short(error)})") from error
    missing = sorted(told["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        what = f"{source} lacks {missing[0]}{more}, which are random now; leave their layers out with --layers"
        typer.echo(f"prunecca: {printable(what)}", err=True)
    network: nn.Module = model
    return network


def _filled(model: nn.Module, file: Path, spec: str) -> nn.Module:
    """The model with the weights of a file, all of them."""
    checkpoint = read_checkpoint(file)
    own = model.state_dict()
    shapes = {name: value.shape if isinstance(value, Tensor) else None for name, value in own.items()}
    if isinstance(checkpoint.content, Mapping):
        for name in _stored_once(own, checkpoint.content):
            del shapes[name]
    try:
        state = checkpoint.state(shapes, f"the network of --model {spec}")
    except Misfit as error:
        raise ConfigurationError(f"{error}; give the --model that these weights were trained in") from None
    model.load_state_dict(state.tensors, strict=False)  # it was checked; only what files may lack is missing
    return model


def _stored_once(own: Mapping[str, Any], stored: Mapping[Any, Any]) -> list[str]:
    """Names that share their numbers with another, under which alone the file has them."""
    groups: dict[Hashable, list[str]] = {}
    for name, value in own.items():
        if isinstance(value, Tensor):
            groups.setdefault(memory_of(value), []).append(name)
    shared = [names for names in groups.values() if any(name in stored for name in names)]
    return [name for names in shared for name in names if name not in stored]


def _library(name: str, spec: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigurationError(f"--model {spec} needs {name}, which is not installed; pip install {name}") from None


def _in_short(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
