"""``prunecca compare``: the layers of trained networks, or files of activations, from the command line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, PickledObject
from ..study.options import Options
from ..text import printable
from .interruption import interruptible
from .outputs import check_file

if TYPE_CHECKING:
    from ..comparison.result import Comparison

_DEFAULTS = Options()
_OF_NETWORKS = ("model", "loader", "most", "rows", "pairs", "points", "resize", "plot", "heatmap")
_OF_PROBLEMS = ("problem", "images")


def compare(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A reference and one or more candidates: state.safetensors of a run directory, or checkpoints of torch "
            "or safetensors, FILE:KEY for one of several networks in it; with --activations, stored arrays.",
            show_default=False,
        ),
    ],
    activations: Annotated[
        bool,
        typer.Option(
            "--activations",
            help="The files hold activations, (N, C), (N, C, H, W) or by --layout other: .npy, .safetensors, .npz, .h5 or "
            ".zarr, FILE:NAME for one of several arrays, or a folder of shards.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Whose weights the files hold: package.module:make for a function of yours that gives a module, "
            "torchvision:NAME, timm:NAME, or hf:FOLDER.",
            show_default="the network of --problem",
        ),
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(
            "--loader",
            help="package.module:make_loader, which gives batches for --model.",
            show_default="the images of --problem",
        ),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option("--problem", help="Whose network the states belong to.", show_default="as the first says"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the images, as for reproduce.", envvar="PRUNECCA_DATA")
    ] = None,
    images: Annotated[int, typer.Option("--images", help="How many training images.")] = _DEFAULTS.images,
    most: Annotated[
        int | None, typer.Option("--max", help="Stop after that many inputs.", min=1, show_default="all")
    ] = None,
    metrics: Annotated[str, typer.Option("--metrics", help="Names, separated by commas.")] = "svcca,linear_cka",
    variance: Annotated[float, typer.Option("--variance", help="Kept by SVCCA before the CCA.")] = _DEFAULTS.variance,
    trim: Annotated[
        float | None,
        typer.Option(
            "--trim", help="Average the correlations that hold this fraction of their sum.", show_default="all"
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Names or globs, separated by commas.", show_default="all hidden layers"),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="Which dimension holds the channels: a word such as nlc, or GLOB=WORD,... by names of layers.",
            show_default="as found",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", help="Which rows count: a key of the batches, such as attention_mask.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option("--pairs", help="same, or all: every layer with every layer.", show_default="same"),
    ] = None,
    points: Annotated[
        str | None, typer.Option("--points", help="What a datapoint is: token, mean, cls, last or flatten.")
    ] = None,
    resize: Annotated[
        str | None, typer.Option("--resize", help="pool: layers of different sizes are pooled to the smaller.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides which images are drawn.")] = _DEFAULTS.seed,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the table there, .csv or .parquet.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw similarity per layer there, .png, .pdf or .svg.")
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option("--heatmap", help="Draw every layer against every layer there, by the first of --metrics."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no table and no progress.")] = False,
) -> None:
    """Compare the layers of a reference network with those of other networks."""
    if len(files) < 2:
        raise ConfigurationError(f"one file was given, {files[0]}; expected a reference and at least one candidate")
    _check_options(context, activations, model, loader)
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    options = Options(metrics=names, variance=variance, trim=trim, images=images, seed=seed)
    if heatmap is not None:
        if pairs not in (None, "all"):
            raise ConfigurationError(f"--heatmap needs every pair of layers, and --pairs is {pairs}; give --pairs all")
        pairs = "all"
    _check_outputs(out, plot, heatmap)
    given: dict[str, Any] = {"layout": None if layout is None else read_layout(layout), "max_datapoints": most}
    given |= {"rows": rows, "pairs": pairs, "points": points, "resize": resize}
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen |= {"metrics": options.metric_options(), "progress": not quiet}
    with (
        interruptible(lambda: "interrupted; nothing was compared to the end, and nothing was written"),
        _plain_warnings(),
    ):
        if activations:
            from ..comparison.files import compare_files

            if isinstance(chosen.get("layout"), dict):
                raise ConfigurationError(f"--layout is {layout!r}; with --activations expected one word, such as nlc")
            table, result = compare_files(files[0], files[1:], **chosen), None
        else:
            chosen["layers"] = None if layers is None else [name.strip() for name in layers.split(",")]
            with _advice_for_pickles():
                if model is not None and loader is not None:
                    result = _compare_own(files, model, loader, device, chosen)
                else:
                    result = _compare_states(files, options, problem, data, device, chosen)
            table = result.table
    if not quiet:
        from .comparison_table import print_comparison

        print_comparison(table)
    if out is not None:
        from ..storage.tables import write_table

        write_table(out, table)
    if result is not None and plot is not None:
        result.plot(plot)
    if result is not None and heatmap is not None:
        result.heatmap(names[0], heatmap)
    for what, written in {"table": out, "plot": plot, "heatmap": heatmap}.items():
        if written is not None and not quiet:
            typer.echo(f"{what}  {printable(written)}")


def read_layout(text: str) -> str | dict[str, str]:
    """A word for all layers, or words by globs: ``blocks.*=nlc,features.*=nhwc``.

    Raises:
        ConfigurationError: something else.
    """
    if "=" not in text:
        return text.strip()
    found: dict[str, str] = {}
    for part in text.split(","):
        glob, sign, word = (piece.strip() for piece in part.rpartition("="))
        if not sign or not glob or not word:
            raise ConfigurationError(f"--layout is {text!r}; expected a word such as nlc, or GLOB=WORD,GLOB=WORD")
        found[glob] = word
    return found


def _compare_own(files: list[Path], model: str, loader: str, device: str, chosen: Mapping[str, Any]) -> Comparison:
    from ..comparison.compare import compare as compare_models
    from ..machine.info import choose_device
    from .own_networks import load_batches, load_networks

    target = choose_device(device)
    reference, *candidates = load_networks(model, files)
    named = _by_name(files[1:], candidates)
    return compare_models(reference, named, load_batches(loader), device=target, distributed="off", **chosen)


def _compare_states(
    files: list[Path],
    options: Options,
    problem: str | None,
    data: Path | None,
    device: str,
    chosen: Mapping[str, Any],
) -> Comparison:
    from ..comparison.compare import compare as compare_models
    from ..data.loading import representation_subset
    from ..machine.info import choose_device
    from ..study.resolve import load_network

    target = choose_device(device)
    setting, reference = load_network(files[0], problem, data)
    candidates = _by_name(files[1:], [load_network(path, setting.problem.name, data)[1] for path in files[1:]])
    images = representation_subset(setting.splits(data).train.to(target), options.images, options.seed)
    return compare_models(reference, candidates, images, device=target, distributed="off", **chosen)


def _by_name(files: list[Path], networks: list[Any]) -> dict[str, Any]:
    names = [printable(path) for path in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{twice} is given twice as a candidate; expected each once")
    return dict(zip(names, networks, strict=True))


def _check_options(context: typer.Context, activations: bool, model: str | None, loader: str | None) -> None:
    """Refuse options that would have no effect."""
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in (*_OF_NETWORKS, *_OF_PROBLEMS)}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    for name in given:
        if activations and name in _OF_NETWORKS:
            raise ConfigurationError(f"{flags[name]} is for networks; leave it out with --activations")
        if model is not None and name in _OF_PROBLEMS:
            raise ConfigurationError(
                f"{flags[name]} is for networks of a problem; with --model give --loader and --max"
            )
    if model is not None and loader is None:
        raise ConfigurationError("--model needs data; give --loader package.module:make_loader")
    if loader is not None and model is None:
        raise ConfigurationError("--loader is for networks of your own; give --model package.module:make")


def _check_outputs(out: Path | None, plot: Path | None, heatmap: Path | None) -> None:
    """Refuse what could not be written, before the work."""
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ConfigurationError(f"{out} ends in {out.suffix!r}; expected a file name ending in .csv or .parquet")
    pictures = [path for path in (plot, heatmap) if path is not None]
    if pictures:
        from ..figures.output import picture_form

        for picture in pictures:
            picture_form(picture)
    for path in (out, *pictures):
        if path is not None:
            check_file(path)
    if len(pictures) == 2 and plot is not None and heatmap is not None and plot.resolve() == heatmap.resolve():
        raise ConfigurationError(f"--plot and --heatmap both name {plot}; expected two files")


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """What is to be known of the values is one sentence on standard error, without a place in our code."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, UserWarning):
            typer.echo(f"prunecca: {printable(message)}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _advice_for_pickles() -> Iterator[None]:
    try:
        yield
    except PickledObject as error:
        raise PickledObject(f"{error} with --model package.module:make, which makes that network") from error
