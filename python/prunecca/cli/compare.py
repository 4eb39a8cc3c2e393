"""``prunecca compare``: the layers of trained networks, or files of activations, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ..study.options import Options
from ..text import console, printable
from .interruption import interruptible
from .outputs import check_file

if TYPE_CHECKING:
    import pandas as pd


_DEFAULTS = Options()


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A reference and one or more candidates: state.safetensors of a run directory, or checkpoints of torch "
            "or safetensors, FILE:KEY for one of several networks in it; with --activations, .npy files.",
            show_default=False,
        ),
    ],
    activations: Annotated[
        bool, typer.Option("--activations", help="The files hold activations: (N, C), (N, C, H, W) or (N, C, L).")
    ] = False,
    problem: Annotated[
        str | None,
        typer.Option("--problem", help="Whose network the states belong to.", show_default="as the first says"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the images, as for reproduce.", envvar="PRUNECCA_DATA")
    ] = None,
    images: Annotated[int, typer.Option("--images", help="How many training images.")] = _DEFAULTS.images,
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
    seed: Annotated[int, typer.Option("--seed", help="Decides which images are drawn.")] = _DEFAULTS.seed,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the table there, .csv or .parquet.", show_default=False)
    ] = None,
) -> None:
    """Compare the layers of a reference network with those of other networks."""
    if len(files) < 2:
        raise ConfigurationError(f"one file was given, {files[0]}; expected a reference and at least one candidate")
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ConfigurationError(f"{out} ends in {out.suffix!r}; expected a file name ending in .csv or .parquet")
    if out is not None:
        check_file(out)
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    options = Options(metrics=names, variance=variance, trim=trim, images=images, seed=seed)
    with interruptible(lambda: "interrupted; nothing was compared to the end, and nothing was written"):
        if activations:
            from ..comparison.files import compare_files

            table = compare_files(files[0], files[1:], options.metric_options(), progress=True)
        else:
            chosen = None if layers is None else [name.strip() for name in layers.split(",")]
            table = _compare_states(files, options, problem, data, chosen, device)
    _print(table)
    if out is not None:
        from ..storage.tables import write_table

        write_table(out, table)
        typer.echo(f"table  {printable(out)}")


def _compare_states(
    paths: list[Path], options: Options, problem: str | None, data: Path | None, layers: list[str] | None, device: str
) -> pd.DataFrame:
    from ..comparison.compare import compare as compare_models
    from ..data.loading import representation_subset
    from ..machine.info import choose_device
    from ..study.resolve import load_network

    chosen = choose_device(device)
    setting, reference = load_network(paths[0], problem, data)
    candidates = {printable(path): load_network(path, setting.problem.name, data)[1] for path in paths[1:]}
    images = representation_subset(setting.splits(data).train.to(chosen), options.images, options.seed)
    result = compare_models(
        reference,
        candidates,
        images,
        layers,
        options.metric_options(),
        device=chosen,
        progress=True,
        distributed="off",
    )
    return result.table


def _print(table: pd.DataFrame) -> None:
    """Layers down, metrics across, one block per candidate."""
    from rich.table import Table

    terminal = console()
    for candidate, rows in table.groupby("candidate", sort=False):
        metrics = list(rows["metric"].unique())
        terminal.print(printable(candidate), style="bold", soft_wrap=True)
        shown = Table()
        if "layer" in rows:
            shown.add_column("layer")
        for metric in metrics:
            shown.add_column(metric, justify="right")
        by_layer = rows.groupby("layer", sort=False) if "layer" in rows else [("", rows)]
        for layer, own in by_layer:
            values = own.set_index("metric")["value"]
            cells = [f"{values[metric]:.4f}" for metric in metrics]
            shown.add_row(*([printable(layer)] if "layer" in rows else []), *cells)
        terminal.print(shown)
