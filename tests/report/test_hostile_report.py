"""A report of a run directory from someone else: what it writes lies in --out, and what cannot be is one sentence."""

import contextlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import PLANTS, fingerprint, plant, soon
from reports import configuration, store, study_tables

from prunecca.errors import ConfigurationError, CorruptFile, StorageError
from prunecca.report import run as reported
from prunecca.report.report import write
from prunecca.storage import states

SIZE = (1, 1, 0)
REFUSALS = (ConfigurationError, CorruptFile, StorageError, ValueError)


@pytest.fixture
def place(tmp_path):
    """A folder of tables, and beside it one whose file must stay."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    store(tmp_path / "run", study_tables(size=SIZE), configuration(size=SIZE))
    return tmp_path


def replace(folder, name, column, value):
    """Write a table anew with one value changed."""
    path = folder / "run" / "tables" / f"{name}.parquet"
    table = pd.read_parquet(path)
    table[column] = [value, *table[column].tolist()[1:]]
    table.to_parquet(path, index=False)


NAMES = ["../../x", "../outside/mine", "/absolute/x", "..", "a/b", "-x", "", "x" * 300, "a\nb", ".hidden"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("column", ["problem", "metric"])
def test_names_that_could_lead_elsewhere_are_refused(place, quick, name, column):
    before = fingerprint(place)
    replace(place, "similarity", column, name)
    (place / "run" / "tables" / "similarity.csv").unlink(missing_ok=True)
    with (
        soon(),
        pytest.raises(CorruptFile, match=rf"similarity\.parquet has .* in its column {column}; expected letters"),
    ):
        write(place / "run", place / "out")
    assert not (place / "out").exists()
    after = fingerprint(place)
    assert {p: v for p, v in after.items() if "similarity" not in p} == {
        p: v for p, v in before.items() if "similarity" not in p
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_with_such_a_name_is_refused(place, quick, name):
    config = configuration(size=SIZE)
    config["problems"] = {name: config["problems"]["digits2"]}
    config["problems"][name]["settings"]["name"] = name
    states.write_json(place / "run" / "config.json", config)
    with soon(), pytest.raises(ConfigurationError, match="cannot be used: problems"):
        write(place / "run", place / "out")
    assert not (place / "out").exists()


@pytest.mark.parametrize("layer", ["../../x", "a/b\nc", "$\\frac{$", "<script>", "\x1b[31mred", "\u202e", "[red]"])
def test_names_of_layers_are_text_that_reaches_no_path(place, quick, layer):
    for name in ("similarity", "layers", "dimension"):
        replace(place, name, "layer", layer)
    outside = fingerprint(place / "outside")
    written = write(place / "run", place / "out")
    assert written.page.exists()
    assert fingerprint(place / "outside") == outside
    assert sorted(path.name for path in place.iterdir()) == ["out", "outside", "run"]


@pytest.mark.parametrize("kind", PLANTS)
@pytest.mark.parametrize(
    "name", ["config.json", "environment.json", "tables/levels.parquet", "digits2/level-00/piece.json"]
)
def test_what_takes_the_place_of_a_file_is_not_followed(place, quick, kind, name):
    outside = fingerprint(place / "outside")
    plant(kind, place / "run" / name, place / "outside" / "mine")
    with soon(), contextlib.suppress(*REFUSALS):
        write(place / "run", place / "out")
    assert fingerprint(place / "outside") == outside


@pytest.mark.parametrize("name", ["tables", "digits2", "digits2/level-00"])
def test_a_folder_behind_a_link_is_not_read(place, quick, name):
    (place / "run" / "tables").rename(place / "outside" / "tables")
    (place / "run" / name).parent.mkdir(exist_ok=True)
    (place / "run" / name).symlink_to(place / "outside" / "tables")
    with pytest.raises(CorruptFile, match=f"{name} is a link, and none is followed"):
        write(place / "run", place / "out")
    assert not (place / "out").exists()


@pytest.mark.parametrize("name", ["report", "report/figures"])
def test_a_link_in_the_place_of_the_report_is_refused(place, quick, name):
    link = place / "run" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(place / "outside")
    outside = fingerprint(place / "outside")
    for out in (None, place / "run" / "report"):
        with pytest.raises(StorageError, match="is a link, and none is followed"):
            write(place / "run", out)
    assert fingerprint(place / "outside") == outside


@pytest.mark.parametrize("name", ["index.html", "claims.csv", "figures/accuracy"])
def test_links_in_the_place_of_what_is_written_are_replaced(place, quick, name):
    path = place / "run" / "report" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(place / "outside" / "mine")
    outside = fingerprint(place / "outside")
    write(place / "run")
    assert not path.is_symlink()
    assert fingerprint(place / "outside") == outside


def test_an_out_that_the_user_reaches_through_a_link_is_fine(place, quick):
    (place / "elsewhere").mkdir()
    (place / "out").symlink_to(place / "elsewhere")
    write(place / "run", place / "out")
    assert (place / "elsewhere" / "index.html").exists()


@pytest.mark.parametrize("out", [None, "report", "../out", "./a/../b"])
def test_paths_may_be_relative(place, quick, monkeypatch, out):
    monkeypatch.chdir(place / "run")
    assert write(".", out).page.exists()


@pytest.mark.parametrize(
    ("name", "column", "value", "words"),
    [
        ("levels", "level", 10**9, "has '1000000000' in its column level; expected at most 10000"),
        ("levels", "level", -1, "expected whole numbers from 0"),
        ("levels", "replicate", 1.5, "expected whole numbers from 0"),
        ("levels", "control", 2, "has '2' in its column control; expected True or False"),
        ("levels", "density", 1e300, "expected numbers up to"),
        ("similarity", "value", "x", "cannot be read as a table"),
        ("similarity", "layer", "x" * 1000, "has 1000 characters in a text of layer; expected at most 500"),
        ("dimension", "depth", 10**18, "expected whole numbers from 0"),
    ],
)
def test_values_that_cannot_be_are_one_sentence(place, quick, name, column, value, words):
    with contextlib.suppress(pa.ArrowException):  # which refuses to write some of them
        replace(place, name, column, value)
        with soon(), pytest.raises(CorruptFile, match=words):
            write(place / "run", place / "out")
        assert not (place / "out").exists()


def put(place, table, name="similarity"):
    pq.write_table(table, place / "run" / "tables" / f"{name}.parquet")


def test_tables_that_would_fill_the_memory_are_refused(place, quick):
    rows = 2_000_000
    nothing = pa.array(np.zeros(rows, np.int8))
    with soon():
        put(place, pa.table({"layer": nothing}))
        assert (place / "run" / "tables" / "similarity.parquet").stat().st_size < 10_000
        with pytest.raises(CorruptFile, match=r"has 2000000 rows; expected at most 1000000"):
            write(place / "run", place / "out")
        put(place, pa.table({f"c{number}": [1] for number in range(1000)}))
        with pytest.raises(CorruptFile, match="has 1000 columns; expected at most 64"):
            write(place / "run", place / "out")
        text = pa.DictionaryArray.from_arrays(np.zeros(900_000, np.int8), pa.array(["x" * 100_000]))
        put(place, pa.table({"layer": text}))
        with pytest.raises(CorruptFile):
            write(place / "run", place / "out")
        put(place, pa.table({"layer": pa.array([[1]])}))
        with pytest.raises(CorruptFile, match="cannot be read as a table"):
            write(place / "run", place / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("problem" + "," * 100_000, "columns; expected at most 64"),
        ("problem\n" + "x\n" * 1_000_001, "has 1000001 rows"),
        ("problem,other\nx,y\n", "has a column 'other'; expected only problem"),
        ("problem\n" + "x" * 1000, "has 1000 characters in a text of problem"),
        ("problem\n\xff\xfe", "cannot be read as a table"),
        ("problem,replicate\nx,0,1\n", "cannot be read as a table"),
        ('problem\n"x', "cannot be read as a table"),
        ("\0" * 1000, "cannot be read as a table|has a column"),
    ],
)
def test_text_that_is_no_table_is_refused(place, quick, text, words):
    path = place / "run" / "tables" / "levels.parquet"
    path.unlink()
    path.with_suffix(".csv").write_bytes(text.encode("latin-1"))
    with soon(), pytest.raises(CorruptFile, match=words):
        write(place / "run", place / "out")


def test_more_layers_than_can_be_drawn_are_refused(place, quick):
    table = pd.read_parquet(place / "run" / "tables" / "similarity.parquet").iloc[[0]]
    many = pd.concat([table] * 3000, ignore_index=True).assign(layer=[f"layer{n}" for n in range(3000)])
    many.to_parquet(place / "run" / "tables" / "similarity.parquet", index=False)
    with soon(), pytest.raises(CorruptFile, match="has 3000 values in its column layer; expected at most 2000"):
        write(place / "run", place / "out")


def test_starts_of_another_kind_are_left_out(place, quick):
    states.write_json(place / "run" / "environment.json", {"starts": [{"gpus": 3, "device": {"a": 1}}]})
    assert write(place / "run", place / "out").page.exists()
    states.write_json(
        place / "run" / "environment.json", {"starts": [{"gpus": ["a"], "device": ["x"], "machine": None}]}
    )
    assert write(place / "run", place / "out").page.exists()


def test_mutations_of_the_files_touch_nothing_outside(place, quick):
    generator = np.random.default_rng(7)
    run, out = place / "run", place / "out"
    outside = fingerprint(place / "outside")
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    names = [
        path
        for path in whole
        if path.suffix in (".json", ".parquet") and path.stem in ("config", "levels", "similarity")
    ]
    refused = 0
    for number in range(200):
        path = names[generator.integers(len(names))]
        path.write_bytes(mutated(whole[path], path, generator))
        with soon(60):
            try:
                write(run, out) if number % 8 == 0 else reported.read(run)
            except REFUSALS:
                refused += 1
        path.write_bytes(whole[path])
    assert refused > 50
    assert fingerprint(place / "outside") == outside
    assert set(place.iterdir()) <= {run, out, place / "outside"}
    assert {path: path.read_bytes() for path in whole} == whole


def mutated(content, path, generator):
    """Bytes flipped, cut or repeated; in a record also with a digest that fits again."""
    data = bytearray(content)
    for _ in range(generator.integers(1, 6)):
        place = int(generator.integers(len(data)))
        match generator.integers(4):
            case 0:
                data[place] = int(generator.integers(256))
            case 1:
                data[place] ^= 1 << int(generator.integers(8))
            case 2:
                del data[place : place + int(generator.integers(1, 20))]
            case _:
                data[place:place] = data[place : place + int(generator.integers(1, 20))]
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            states.write_json(path, json.loads(bytes(data)))
            return path.read_bytes()
    return bytes(data)
