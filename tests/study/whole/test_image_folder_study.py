"""Torchvision's classifiers on a folder of images, from the command line: a whole small study, and wrong folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from prunecca.cli.main import app
from prunecca.errors import ConfigurationError
from prunecca.storage.states import write_json
from prunecca.study import resolve as resolve_module
from prunecca.study import tables
from prunecca.study.options import Options, Size
from prunecca.study.resolve import resolve
from prunecca.study.study import prepare

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = {"cat": (200, 60, 40), "dog": (40, 60, 200), "fox": (60, 180, 60)}
SHORT = ["--epochs", "2", "--rewind-epoch", "1", "--levels", "1", "--controls", "0", "--threads", "1"]
FEW = ["--images", "12", "--metrics", "linear_cka", "--device", "cpu"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in the layout of ImageNet, of images that differ in size; tests only read it."""
    root, random = tmp_path_factory.mktemp("images") / "pictures", np.random.default_rng(0)
    for half, count in (("train", 6), ("val", 2)):
        for label, colour in COLOURS.items():
            place = root / half / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(colour, 50, (40 + number, 50, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "more", "layers"),
    [
        (
            "resnet18",
            ["--image-size", "16", "--batch-size", "6"],
            ["relu", *(f"layer{n}.{block}" for n in (1, 2, 3, 4) for block in (0, 1)), "avgpool"],
        ),
        ("shufflenet_v2_x0_5", ["--image-size", "64", "--layers", "conv1.2,maxpool,conv5.2"], None),
    ],
)
def test_a_study_of_a_torchvision_network(
    pictures: Path, tmp_path: Path, network: str, more: list[str], layers: list[str] | None
) -> None:
    out = tmp_path / "run"
    command = ["reproduce", network, "--data", str(pictures), "--out", str(out), *SHORT, *FEW, *more]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    made = tables.load(out)
    assert made["levels"]["level"].tolist() == [0, 1]
    assert 0.79 < made["levels"]["density"][1] < 0.86
    assert made["epochs"].query("level == 1")["epoch"].tolist() == [2]
    assert made["epochs"]["val_loss"].notna().all(), "patience, so a tenth of each class validates"
    assert made["similarity"]["layer"][: len(layers or [])].tolist() == (layers or [])
    assert made["similarity"]["value"].between(0, 1 + 1e-9).all()
    assert set(made["dimension"]["layer"]) == set(made["similarity"]["layer"])


def test_batch_and_image_size_are_kept_with_the_study(pictures: Path) -> None:
    setting = resolve("resnet18", Options(epochs=4, image_size=24, batch_size=5), pictures)
    assert (setting.image_size, setting.problem.batch, setting.problem.classes) == (24, 5, 3)
    other = resolve("resnet18", Options(epochs=4, image_size=16), pictures)
    assert (other.image_size, other.problem.batch) == (16, 128)
    assert other.data != setting.data, "the same files at another size are other data"


def test_images_that_changed_classes_are_other_data(pictures: Path, tmp_path: Path) -> None:
    folder, out, options = tmp_path / "pictures", tmp_path / "run", Options(epochs=4, image_size=16)
    shutil.copytree(pictures, folder)

    def configure() -> dict[str, Any]:
        resolve_module._load.cache_clear()  # as another process would find the folder
        return prepare(["resnet18"], options, Size(levels=1), out, data=folder).configuration()

    settings = configure()["problems"]["resnet18"]["settings"]
    older = json.loads((out / "config.json").read_text())  # as earlier versions wrote it: nothing of the pixels
    older["problems"]["resnet18"]["settings"]["data"] = settings["data"].partition("-")[0]
    write_json(out / "config.json", older)
    assert configure()["problems"]["resnet18"]["settings"] == settings, (
        "it is continued, and knows the images from now on"
    )
    cat, dog = folder / "train" / "cat" / "0.png", folder / "train" / "dog" / "0.png"
    cat.rename(folder / "0.png")
    dog.rename(cat)
    (folder / "0.png").rename(dog)
    with pytest.raises(ConfigurationError) as caught:
        configure()
    assert str(caught.value) == (
        f"the images for resnet18 are not those that {out} was made with; give the same --data, or another --out"
    )


def test_images_too_small_for_a_network_are_found_before_training(pictures: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"alexnet cannot take images of 32 x 32 pixels .* larger --image-size$"
    ):
        resolve("alexnet", Options(epochs=4, image_size=32), pictures)


def say(folder: Path, out: Path) -> str:
    """The sentence with which the command ends."""
    command = ["reproduce", "resnet18", "--data", str(folder), "--image-size", "16", "--out", str(out), *SHORT]
    with pytest.raises((ValueError, OSError)) as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not out.exists(), "nothing is written before the images are known to be whole"
    return str(caught.value)


def test_wrong_folders_are_one_sentence_that_names_the_file(pictures: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    assert say(folder, out) == f"{folder} has no folder train; expected train/CLASS/image and val/CLASS/image in it"
    (folder / "train").mkdir()
    (folder / "val").mkdir()
    assert say(folder, out).startswith(f"{folder}/train has no classes; expected a folder of images (.jpg, ")
    shutil.rmtree(folder)
    shutil.copytree(pictures, folder)
    shutil.rmtree(folder / "val" / "fox")
    (folder / "val" / "fox").mkdir()
    (folder / "val" / "fox" / "notes.txt").write_text("none yet")
    assert say(folder, out).startswith(f"{folder}/val/fox holds no images; expected files that end in .jpg, ")
    (folder / "val" / "fox" / "0.png").write_text("a text")
    assert say(folder, out).startswith(f"{folder}/val/fox/0.png cannot be read as an image: cannot identify image")
    whole = (folder / "train" / "dog" / "3.png").read_bytes()
    shutil.copy(folder / "train" / "fox" / "0.png", folder / "val" / "fox" / "0.png")
    (folder / "train" / "dog" / "3.png").write_bytes(whole[:900])
    text = say(folder, out)
    assert text == f"{folder}/train/dog/3.png cannot be read as an image: image file is truncated; replace or remove it"
    shutil.rmtree(folder / "train" / "dog")
    assert "differ in their classes (dog); expected the same folders in both" in say(folder, out)
