"""``prunecca reproduce``: the study from the command line."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError
from ..pruning.recipe import RECIPES
from ..study.options import PAPER_LEVELS, SHORT_EPOCHS, SHORT_LEVELS, Options, Size
from ..text import console, printable
from .interruption import interruptible
from .outputs import check_folder

if TYPE_CHECKING:
    import pandas as pd

    from ..study.reporter import Reporter

_DEFAULTS = Options().flags()
_RUN, _STUDY, _PRUNING, _COMPARISON = "Run", "Study", "Pruning and retraining", "Comparison"


def _option(name: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel, **more)


def reproduce(
    problems: Annotated[
        list[str] | None,
        typer.Argument(
            help="cifar2 cifar4 cifar6 cifar8 cifar10 (or cifar10-nin ...), digits2 ... digits10, vgg19, resnet18 or a torchvision classifier.",
            show_default="digits4",
        ),
    ] = None,
    out: Annotated[
        Path | None, _option("--out", "Run directory; an existing one is continued.", _RUN, show_default="runs/PROBLEM")
    ] = None,
    data: Annotated[
        Path | None,
        _option("--data", "Folder with the CIFAR-10 python batches, or an image folder.", _RUN, envvar="PRUNECCA_DATA"),
    ] = None,
    workers: Annotated[
        int | None,
        _option(
            "--workers",
            "Networks at the same time.",
            _RUN,
            min=1,
            max=4096,
            show_default="1, on Ray all that have room",
        ),
    ] = None,
    engine: Annotated[
        str, _option("--engine", "local: processes on this machine. ray: a Ray cluster (extra prunecca\\[ray]).", _RUN)
    ] = "local",
    address: Annotated[
        str | None, _option("--address", "Of a Ray cluster, such as auto.", _RUN, show_default="a local one is started")
    ] = None,
    gpus_per_network: Annotated[
        float, _option("--gpus-per-network", "On Ray: 0.25 makes four networks on each GPU.", _RUN, min=0.0, max=1024.0)
    ] = 0.0,
    threads: Annotated[
        int | None,
        _option("--threads", "CPU threads of each network.", _RUN, min=1, max=4096, show_default="all, shared"),
    ] = None,
    device: Annotated[str, _option("--device", "auto, cpu, cuda or cuda:N.", _RUN)] = "auto",
    paper: Annotated[
        bool, _option("--paper", f"The paper's schedule: its epochs, and {PAPER_LEVELS} levels.", _STUDY)
    ] = False,
    levels: Annotated[
        int | None,
        _option("--levels", "Pruning iterations.", _STUDY, show_default=f"{SHORT_LEVELS}, with --paper {PAPER_LEVELS}"),
    ] = None,
    replicates: Annotated[
        str,
        _option(
            "--replicates",
            "Repetitions from the same unpruned network; 5:10 for numbers 5 to 9, with others in other run directories.",
            _STUDY,
        ),
    ] = "1",
    controls: Annotated[int, _option("--controls", "Networks retrained without pruning.", _STUDY)] = 1,
    epochs: Annotated[
        int | None,
        _option(
            "--epochs",
            "Epochs of the unpruned network.",
            _STUDY,
            show_default=f"at most {SHORT_EPOCHS}, with --paper the problem's",
        ),
    ] = None,
    seed: Annotated[int, _option("--seed", "Seed of everything random.", _STUDY)] = _DEFAULTS["seed"],
    train_images: Annotated[
        int | None, _option("--train-images", "Train on this many images only.", _STUDY, show_default="all")
    ] = None,
    test_images: Annotated[
        int | None, _option("--test-images", "Test on this many images only.", _STUDY, show_default="all")
    ] = None,
    evaluate_every: Annotated[
        int, _option("--evaluate-every", "Epochs between two looks at the test images.", _STUDY)
    ] = _DEFAULTS["evaluate_every"],
    precision: Annotated[
        str, _option("--precision", "float32, bfloat16, or auto: whichever trains faster here.", _STUDY)
    ] = _DEFAULTS["precision"],
    image_size: Annotated[
        int | None, _option("--image-size", "Side of the images of a folder.", _STUDY, show_default="224")
    ] = None,
    batch_size: Annotated[
        int | None, _option("--batch-size", "Images per step.", _STUDY, show_default="the problem's")
    ] = None,
    learning_rate: Annotated[float, _option("--learning-rate", "Of Adam.", _STUDY)] = _DEFAULTS["learning_rate"],
    weight_decay: Annotated[float, _option("--weight-decay", "L2, as in Adam.", _STUDY)] = _DEFAULTS["weight_decay"],
    dropout: Annotated[
        float | None, _option("--dropout", "After hidden linear layers.", _STUDY, show_default="0.5")
    ] = None,
    patience: Annotated[
        int | None,
        _option(
            "--patience", "Epochs without improvement before stopping early.", _STUDY, show_default="the problem's"
        ),
    ] = None,
    rewind_epoch: Annotated[
        int, _option("--rewind-epoch", "Levels restart from the end of this epoch.", _PRUNING)
    ] = _DEFAULTS["rewind_epoch"],
    rewind_optimizer: Annotated[
        str, _option("--rewind-optimizer", "restore its state of that epoch, or begin fresh.", _PRUNING)
    ] = _DEFAULTS["rewind_optimizer"],
    prune_output_layer: Annotated[
        bool, _option("--prune-output-layer", "Prune the output layer too.", _PRUNING)
    ] = False,
    conv_rate: Annotated[
        float | None,
        _option(
            "--conv-rate", "Fraction of convolution entries pruned per level.", _PRUNING, show_default="the problem's"
        ),
    ] = None,
    fc_rate: Annotated[
        float | None,
        _option("--fc-rate", "Fraction of linear entries pruned per level.", _PRUNING, show_default="the problem's"),
    ] = None,
    criterion: Annotated[str, _option("--criterion", "Which entries stay.", _PRUNING)] = _DEFAULTS["criterion"],
    scope: Annotated[
        str,
        _option(
            "--scope",
            "Entries compete within their pool, layer, row, or global; channel: whole channels; or N:M, such as 2:4.",
            _PRUNING,
        ),
    ] = _DEFAULTS["scope"],
    retrain: Annotated[str, _option("--retrain", "rewind, lr_rewind, finetune or reinit.", _PRUNING)] = _DEFAULTS[
        "retrain"
    ],
    pruned_value: Annotated[str, _option("--pruned-value", "What pruned entries hold.", _PRUNING)] = _DEFAULTS[
        "pruned_value"
    ],
    one_shot: Annotated[
        bool, _option("--one-shot", "Prune each level at once, from the unpruned network.", _PRUNING)
    ] = False,
    recipe: Annotated[
        str | None,
        _option(
            "--recipe",
            f"A way of the literature: {', '.join(RECIPES)}. It decides the options that are left at their defaults.",
            _PRUNING,
            show_default="weight_rewinding",
        ),
    ] = None,
    penalty_strength: Annotated[
        float | None,
        _option("--penalty-strength", "Lambda of l1 and l1_loss, rho of admm.", _PRUNING, show_default="the recipe's"),
    ] = None,
    penalty_epochs: Annotated[
        int | None,
        _option(
            "--penalty-epochs", "Epochs with the penalty before each pruning.", _PRUNING, show_default="the recipe's"
        ),
    ] = None,
    score_epochs: Annotated[
        int | None,
        _option("--score-epochs", "Of a supermask, before each pruning.", _PRUNING, show_default="the recipe's"),
    ] = None,
    score_rate: Annotated[
        float | None,
        _option("--score-rate", "Learning rate of the scores.", _PRUNING, show_default="the recipe's"),
    ] = None,
    sampling: Annotated[
        str | None,
        _option("--sampling", "Of a supermask's masks: bernoulli or threshold.", _PRUNING, show_default="the recipe's"),
    ] = None,
    retraining_epochs: Annotated[
        int | None,
        _option(
            "--retraining-epochs",
            "Of a pruned network; 0: it is compared as it is pruned.",
            _PRUNING,
            show_default="all after the rewind epoch, or the recipe's",
        ),
    ] = None,
    images: Annotated[
        int, _option("--images", "Training images on which layers are compared.", _COMPARISON)
    ] = _DEFAULTS["images"],
    metrics: Annotated[str, _option("--metrics", "Names, separated by commas.", _COMPARISON)] = ",".join(
        _DEFAULTS["metrics"]
    ),
    variance: Annotated[float, _option("--variance", "Kept by SVCCA before the CCA.", _COMPARISON)] = _DEFAULTS[
        "variance"
    ],
    trim: Annotated[
        float | None,
        _option(
            "--trim",
            "Average the correlations that hold this fraction of their sum.",
            _COMPARISON,
            show_default="all of them",
        ),
    ] = None,
    dimension_images: Annotated[
        int, _option("--dimension-images", "Of these, for intrinsic dimensions; 0: none.", _COMPARISON)
    ] = _DEFAULTS["dimension_images"],
    layers: Annotated[
        str | None,
        _option(
            "--layers",
            "Names or globs, separated by commas.",
            _COMPARISON,
            show_default="after every convolution, pooling and hidden linear layer",
        ),
    ] = None,
) -> None:
    """Train, prune and compare networks as in the paper, for one or more problems.

    Stop it at any time: the same command continues after the last finished epoch. One command works in an --out; it has
    --workers on this machine, or on many machines with --engine ray.
    """
    names = problems or ["digits4"]
    options = Options.from_flags(
        seed=seed,
        epochs=epochs,
        rewind_epoch=rewind_epoch,
        rewind_optimizer=rewind_optimizer,
        prune_output_layer=prune_output_layer,
        conv_rate=conv_rate,
        fc_rate=fc_rate,
        criterion=criterion,
        scope=scope,
        retrain=retrain,
        pruned_value=pruned_value,
        one_shot=one_shot,
        recipe=recipe,
        penalty_strength=penalty_strength,
        penalty_epochs=penalty_epochs,
        score_epochs=score_epochs,
        score_rate=score_rate,
        sampling=sampling,
        retraining_epochs=retraining_epochs,
        dropout=dropout,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        patience=patience,
        image_size=image_size,
        train_images=train_images,
        test_images=test_images,
        evaluate_every=evaluate_every,
        precision=precision,
        images=images,
        metrics=_names(metrics),
        variance=variance,
        trim=trim,
        dimension_images=dimension_images,
        layers=None if layers is None else _names(layers),
    )
    first, count = _replicates(replicates)
    size = Size(levels if levels is not None else PAPER_LEVELS if paper else SHORT_LEVELS, count, controls, first)
    folder = out or Path("runs") / ("-".join(names) + ("-paper" if paper else ""))
    if engine not in ("local", "ray"):
        raise ConfigurationError(f"engine is {engine!r}; expected local or ray")
    if engine == "local" and (address is not None or gpus_per_network):
        raise ConfigurationError("--address and --gpus-per-network are for --engine ray")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError("a study is one command; for more processes give --workers N, or --engine ray")
    with interruptible(lambda: _how_to_continue(folder)):
        # Slow, so that it may be interrupted.
        from ..machine.info import choose_device
        from ..study.study import Workers, execute, prepare

        choose_device(device)  # before anything is written, as is what follows
        check_folder(folder)
        place = Workers(engine, workers, threads, device, address, gpus_per_network)
        run = prepare(names, options, size, folder, data=data, short=not paper, device=device, message=_say)
        with _reporter() as reporter:
            tables = execute(run, place, data=data, reporter=reporter)
        _conclude(run.root, tables)


def _say(text: str) -> None:
    typer.echo(printable(text), err=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _how_to_continue(out: Path) -> str:
    command = shlex.join(["prunecca", *sys.argv[1:]])
    kept = f"every finished epoch is in {out}" if out.is_dir() else "nothing was written yet"
    return f"interrupted; {kept}. To continue: {command}"


def _replicates(text: str) -> tuple[int, int]:
    """The number of the first replicate, and how many there are: of ``5``, or of ``5:10``."""
    first, colon, stop = text.rpartition(":")
    try:
        start, end = int(first) if colon else 0, int(stop)
    except ValueError:
        raise ConfigurationError(f"replicates is {text!r}; expected a number, or FIRST:STOP such as 5:10") from None
    if end <= start:
        raise ConfigurationError(f"replicates is {text}; expected at least 1, or FIRST:STOP with STOP above FIRST")
    return start, end - start


@contextlib.contextmanager
def _reporter() -> Iterator[Reporter]:
    from ..study.reporter import Bars, Lines

    terminal = console(stderr=True)
    if terminal.is_terminal:
        with Bars(terminal) as bars:
            yield bars
    else:
        yield Lines(terminal)


def _conclude(root: Path, tables: dict[str, pd.DataFrame]) -> None:
    from .summary import level_tables

    terminal = console()
    for table in level_tables(tables):
        terminal.print(table)
    for what, where in (("figures", "figures"), ("tables", "tables"), ("configuration", "config.json")):
        terminal.print(f"{what:<14}{printable(root / where)}", soft_wrap=True)
