"""The report of a study: from run directories and folders of tables made here, and how a browser shows it."""

import base64
import html.parser
import json
import os
import re
import shutil
import subprocess

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from prunecca import errors
from prunecca.cli.main import app
from prunecca.errors import ConfigurationError
from prunecca.figures import style
from prunecca.report import markup, report
from prunecca.report import run as reported
from prunecca.report.claims import FAILS, HOLDS, UNDECIDED
from prunecca.report.report import write
from prunecca.storage import atomic, states
from prunecca.study import tables
from prunecca.study.options import FORMAT, Options
from prunecca.study.run_directory import RunDirectory

METRICS = ("svcca", "linear_cka")
OPTIONS = Options(epochs=3, rewind_epoch=1, train_images=64, images=48, metrics=METRICS)

LAYERS = [("conv1", "conv"), ("conv2", "conv"), ("pool1", "pool"), ("fc1", "fc")]


def configuration(problems=("digits2",), size=(3, 3, 1), options=OPTIONS, epochs=3):
    settings = {"dataset": "digits", "classes": 2, "conv": "8* MP", "fc": "64", "network": None, "epochs": epochs}
    settings |= {"batch": 32, "rates": {"conv": 0.1, "fc": 0.2}}
    size = dict(zip(("levels", "replicates", "controls"), size, strict=True))
    return {
        "format": FORMAT,
        "options": options.as_json(),
        "problems": {name: {"size": size, "settings": {"name": name, **settings}} for name in problems},
    }


def study_tables(problems=("digits2",), size=(3, 3, 1), dimension=True):
    """Similarity that falls with level and depth, accuracy that falls a little, density that falls by a fifth."""
    levels, replicates, controls = size
    networks = [
        (problem, replicate, level, False)
        for problem in problems
        for replicate in range(replicates)
        for level in range(levels + 1)
    ] + [(problem, 0, level + 1, True) for problem in problems for level in range(controls)]
    rows = {name: [] for name in tables.NAMES}
    for problem, replicate, level, control in networks:
        key = {"problem": problem, "replicate": replicate, "level": level, "control": control}
        step = 0 if control else level
        accuracy = 0.9 - 0.004 * step + 0.001 * replicate * (level > 0)
        left = {"density": 0.8**step, "parameters_left": int(1000 * 0.8**step)}
        rows["levels"].append({**key, **left, "test_accuracy": accuracy})
        rows["timing"].append({**key, "epoch": 1, "seconds": 60.0})
        for depth, (layer, kind) in enumerate(LAYERS):
            where = {**key, "layer": layer, "kind": kind, "depth": depth}
            if kind != "pool":
                rows["layers"].append({**key, "layer": layer, "density": 0.8**step})
            for metric in METRICS:
                moved = 0.05 * step + 0.02 * depth + 0.003 * replicate + 0.01 * control
                rows["similarity"].append({**where, "metric": metric, "value": 1 - moved if level else 1.0})
            if dimension:
                rows["dimension"].append({**where, "dimension": 9.0 - depth - 0.2 * step, "error": 0.5})
    return {name: pd.DataFrame(its) for name, its in rows.items()}


def store(folder, made, config=None, kind="parquet", flat=False):
    """A folder of tables without weights."""
    states.write_json(folder / "config.json", config or configuration())
    where = folder if flat else folder / "tables"
    where.mkdir(exist_ok=True)
    for name, table in made.items():
        data = tables.parquet(table) if kind == "parquet" else table.to_csv(index=False).encode()
        (where / f"{name}.{kind}").write_bytes(data)
    return folder


class Page(html.parser.HTMLParser):
    """What a reader finds in the page: elements with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("img", "meta", "br"):
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, name):
        return [attributes for element, attributes in self.elements if element == name]


@pytest.fixture
def quick(monkeypatch):
    """Figures are drawn, and instead of their files, which take most of the time, empty ones are written."""

    def save(figure, path):
        atomic.write_atomic(path, b"")
        return [path]

    monkeypatch.setattr(style, "save", save)
    monkeypatch.setattr(report, "as_svg", lambda figure: b"<svg/>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of a finished study of two problems; tests only read it."""
    folder = tmp_path_factory.mktemp("report") / "run"
    folder.mkdir()
    problems = ("digits2", "digits6")
    store(folder, study_tables(problems), configuration(problems))
    start = {"time": "2026-01-02T03:04:05+00:00", "device": "cuda:0", "gpus": ["NVIDIA H100"], "torch": "2.12.0"}
    states.write_json(folder / "environment.json", {"starts": [start]})
    return write(folder)


def test_the_claims_are_a_table_too(whole):
    claims = pd.read_csv(whole.claims)
    assert claims["verdict"].tolist() == [finding.verdict for finding in whole.findings]
    assert claims["value"].tolist() == pytest.approx([finding.value for finding in whole.findings], nan_ok=True)


def test_the_page_says_what_was_done_and_how(whole):
    page = Page(whole.page)
    for words in (
        "2 problems: digits2, digits6",
        "3 levels, 3 replicates, 1 control per problem; 22 of 22 networks finished, on cuda:0 (NVIDIA H100)",
        "22 min of training",
        "prunecca reproduce digits2 digits6 --levels 3 --replicates 3 --controls 1 --epochs 3 --rewind-epoch 1",
        "2.12.0",
    ):
        assert words in page.text
    assert "Still to come" not in page.text


def test_every_claim_is_there_with_its_statistic_interval_and_verdict(whole):
    page = Page(whole.page)
    assert {finding.verdict for finding in whole.findings} == {HOLDS, FAILS, UNDECIDED}
    for finding in whole.findings:
        for words in (finding.statement, finding.statistic, finding.verdict, finding.reason):
            assert words in page.text
    first = next(finding for finding in whole.findings if finding.claim == "b")
    assert f"{first.low:.3f} to {first.high:.3f}".replace("-", "−") in page.text
    cells = [attributes.get("data-label") for attributes in page.all("td") if "data-label" in attributes]
    assert cells.count("verdict") == len(whole.findings)


def test_the_page_is_one_file_that_asks_for_nothing_else(whole):
    page = Page(whole.page)
    assert not {name for name, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base"}
    assert all(attributes["src"].startswith("data:image/svg+xml;base64,") for attributes in page.all("img"))
    assert all(attributes["href"].startswith("#") for attributes in page.all("a"))
    assert not re.search(r"url\(|@import|\son\w+=", page.source)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {attributes["href"][1:] for attributes in page.all("a")} <= targets


def test_the_page_can_be_read_without_seeing_and_in_the_dark(whole):
    page = Page(whole.page)
    assert page.all("html") == [{"lang": "en"}]
    assert "prefers-color-scheme: dark" in page.source
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    alternatives = [attributes["alt"] for attributes in page.all("img")]
    assert len(set(alternatives)) == len(alternatives) == 12
    assert all(any(character.isdigit() for character in text) for text in alternatives), "they tell numbers"
    assert "digits2, svcca per layer at iteration 3: 0.85 at conv1, least 0.79 at fc1, 0.79 at fc1." in alternatives[1]
    assert all("scope" in attributes for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_figures_are_also_png_and_pdf(whole):
    names = {path.name for path in whole.figures}
    stems = ["accuracy", "similarity-svcca"]
    stems += [
        f"{what}-digits{n}" for n in (2, 6) for what in ("heat-map", "density", "dimension", "control", "metrics")
    ]
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert all(path.stat().st_size > 1000 for path in whole.figures)


def test_the_same_tables_give_the_same_bytes(tmp_path):
    size = (1, 1, 1)
    store(tmp_path, study_tables(size=size), configuration(size=size))
    first, second = (write(tmp_path, tmp_path / name) for name in "ab")
    assert first.page.read_bytes() == second.page.read_bytes()
    for one, other in zip(first.figures, second.figures, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_an_unfinished_study_says_what_is_missing(tmp_path, quick):
    made = study_tables()
    made = {
        name: table.query("not control and (replicate == 0 or replicate == 1 and level < 3)")
        for name, table in made.items()
        if len(table)
    }
    page = Page(write(store(tmp_path, made, configuration(("digits2", "digits6")))).page)
    assert "digits2: 6 of 11 networks finished. Still to come: replicate 1 level 3, replicate 2 level 1" in page.text
    assert "control 1." in page.text
    assert "digits6: 0 of 11 networks finished." in page.text
    assert "No network of this problem is finished yet." in page.text
    assert "No control is finished yet." in page.text


def test_only_the_unpruned_network_is_finished(tmp_path, quick):
    made = {name: table.query("level == 0") for name, table in study_tables().items() if len(table)}
    written = write(store(tmp_path, made))
    assert [path.name for path in written.figures] == ["accuracy"]
    page = Page(written.page)
    assert "No pruned network is finished yet" in page.text
    assert {finding.verdict for finding in written.findings} == {UNDECIDED}


def test_no_controls_and_no_dimensions_leave_no_empty_figures(tmp_path, quick):
    size = (2, 1, 0)
    written = write(store(tmp_path, study_tables(size=size, dimension=False), configuration(size=size)))
    page = Page(written.page)
    assert not [path for path in written.figures if path.name.startswith(("control", "dimension"))]
    assert "No network was retrained without pruning" in page.text
    assert "Intrinsic dimensions were not estimated" in page.text
    assert "2 levels, 1 replicate, no control; 3 of 3 networks finished" in page.text


@pytest.mark.parametrize(("kind", "flat"), [("csv", False), ("csv", True)])
def test_tables_without_weights_may_be_csv_under_tables_or_beside_the_configuration(tmp_path, kind, flat):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made = study_tables(dimension=False)
    for table in made.values():
        if "layer" in table:
            table["layer"] = table["layer"].replace({"conv1": "0"})  # as in a plain torch.nn.Sequential
    expected = reported.read(store(tmp_path / "a", made))
    found = reported.read(store(tmp_path / "b", made, kind=kind, flat=flat))
    for name in ("levels", "layers", "similarity", "timing"):
        pd.testing.assert_frame_equal(found.tables[name], expected.tables[name])
    assert found.tables["dimension"].empty


def test_tables_are_made_from_the_pieces_where_they_are_there(tmp_path, monkeypatch):
    store(tmp_path, {name: its.query("replicate == 0") for name, its in study_tables().items() if len(its)})
    (tmp_path / "digits2" / "level-00").mkdir(parents=True)
    (tmp_path / "digits2" / "level-00" / "piece.json").write_text("{}")
    assert len(reported.read(tmp_path).finished) == 5, "its pieces are damaged: the stored tables are left"
    monkeypatch.setattr(tables, "build", lambda run: study_tables())
    assert len(reported.read(tmp_path).finished) == 11


def test_text_from_data_never_becomes_markup(tmp_path, quick):
    size = (2, 1, 1)
    made, config = study_tables(size=size), configuration(size=size)
    for name in ("similarity", "layers", "dimension"):
        made[name]["layer"] += "<b>&\"'"
    config["problems"]["digits2"]["settings"]["conv"] = "<script>"
    states.write_json(tmp_path / "environment.json", {"starts": [{"device": "<i>cpu"}]})
    page = Page(write(store(tmp_path, made, config)).page)
    assert not {name for name, _ in page.elements} & {"script", "i"}
    assert "<script>" in page.text
    assert "<i>cpu" in page.text
    assert "conv1<b>&\"'" in page.all("img")[1]["alt"]


def test_markup_is_escaped_unless_it_is_markup_already():
    inner = markup.tag("b", "<", class_="x", data_label='"')
    assert inner == '<b class="x" data-label="&quot;">&lt;</b>'
    assert markup.tag("p", "a & ", inner, None, [1, inner]) == f"<p>a &amp; {inner}1{inner}</p>"


def test_commands_make_the_same_configuration_again():
    options = Options(metrics=("svcca",), prune_output_layer=True, trim=0.98)
    config = configuration(("cifar2", "cifar4"), options=options, epochs=50)
    config["problems"]["cifar4"]["size"] = {"levels": 20, "replicates": 1, "controls": 0}
    run = reported.ReportedRun("run", config, [], {}, [])
    tail = "--prune-output-layer --metrics svcca --trim 0.98"
    assert run.commands() == [
        f"prunecca reproduce cifar2 --paper --levels 3 --replicates 3 --controls 1 {tail}",
        f"prunecca reproduce cifar4 --paper --levels 20 --replicates 1 --controls 0 {tail}",
    ]


def test_another_metric_takes_the_place_of_svcca(tmp_path):
    made = study_tables()
    made["similarity"] = made["similarity"][made["similarity"]["metric"] == "linear_cka"]
    run = reported.read(store(tmp_path, made))
    assert run.choose_metric(None) == "linear_cka"
    with pytest.raises(ValueError, match="has no metric 'svcca'; it has linear_cka"):
        run.choose_metric("svcca")


def test_what_cannot_be_reported_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist; expected a folder made by"):
        write(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"is not a run directory: it has no config\.json"):
        write(tmp_path)
    RunDirectory(tmp_path).configure(configuration())
    with pytest.raises(ValueError, match=r"no network of .* is finished yet"):
        write(tmp_path)
    store(tmp_path, study_tables())
    with pytest.raises(ValueError, match="margin is -1; expected a loss of accuracy"):
        write(tmp_path, margin=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="a part of this path is a file"):
        write(tmp_path, tmp_path / "file")
    (tmp_path / "tables" / "similarity.parquet").write_bytes(b"PAR1")
    with pytest.raises(errors.CorruptFile, match=r"similarity\.parquet is damaged: it cannot be read as a table"):
        write(tmp_path)
    made = study_tables()
    store(tmp_path, made | {"similarity": made["similarity"].drop(columns="depth")})
    with pytest.raises(errors.CorruptFile, match="lacks the columns depth"):
        write(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    store(tmp_path, study_tables(size=(1, 1, 0)))
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(errors.StorageError, match="read-only for this user"):
        write(tmp_path, tmp_path / "closed")


def test_the_command_line_tells_where_the_page_is_and_changes_nothing_else(tmp_path, quick):
    store(tmp_path, study_tables(size=(2, 1, 0), dimension=False), configuration(size=(2, 1, 0)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = ["report", str(tmp_path), "--metric", "linear_cka", "--margin", "0.1"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    page = tmp_path / "report" / "index.html"
    assert f"page     {page}" in result.output
    assert "linear CKA; accuracy within 0.100 counts as comparable" in Page(page).text
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert all(tmp_path / "report" in path.parents for path in set(after) - set(before))


@pytest.mark.chromium
@pytest.mark.parametrize("width", [1030, 500])
def test_chromium_shows_the_whole_page(whole, tmp_path, width):
    browser = shutil.which("chromium")
    assert browser is not None, "chromium is not installed; expected Debian's package chromium"
    start = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path}/p",
    ]
    # What the browser says of the page after laying it out: a copy is asked, for the page itself has no script.
    question = """<pre id="answer"></pre><script>
      addEventListener("load", () => { const images = [...document.images]; answer.textContent = JSON.stringify({
        images: images.length, broken: images.filter(i => !i.complete || i.naturalWidth == 0).length,
        narrow: images.filter(i => i.getBoundingClientRect().width < 200).length,
        page: document.documentElement.scrollWidth, window: innerWidth }) })</script>"""
    copy = tmp_path / "copy.html"
    copy.write_text(whole.page.read_text().replace("</body>", question + "</body>"))
    shown = browse([*start, f"--window-size={width},900", "--dump-dom", copy.as_uri()])
    answer = json.loads(re.search(r'<pre id="answer">(.*?)</pre>', shown.decode())[1])
    assert (answer["images"], answer["broken"], answer["narrow"]) == (12, 0, 0)
    assert answer["page"] <= answer["window"], "nothing reaches over the edge"

    picture = tmp_path / "page.png"
    browse([*start, f"--window-size={width},5000", f"--screenshot={picture}", whole.page.as_uri()])
    with Image.open(picture) as image:
        assert image.width == width
        for top in range(0, 5000, 1000):
            part = image.convert("L").crop((0, top, width, top + 1000))
            assert part.getextrema()[0] < 100 < part.getextrema()[1], f"nothing is drawn from pixel {top} on"


def browse(command):
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def test_pictures_in_the_page_are_whole_svg_files(whole):
    for attributes in Page(whole.page).all("img"):
        svg = base64.b64decode(attributes["src"].split(",", 1)[1])
        assert svg.rstrip().endswith(b"</svg>")
