"""The page of a report: what it says, what it never lets through, and how a browser shows it."""

import base64
import json
import re
import shutil
import subprocess

import pytest
from pages import Page
from PIL import Image
from reports import configuration, store, study_tables

from prunecca.report.claims import FAILS, HOLDS, UNDECIDED
from prunecca.report.report import write
from prunecca.storage import states


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
    assert {claim.verdict for claim in whole.claims} == {HOLDS, FAILS, UNDECIDED}
    for claim in whole.claims:
        for words in (claim.statement, claim.statistic, claim.verdict, claim.reason):
            assert words in page.text
    first = next(claim for claim in whole.claims if claim.claim == "b")
    assert f"{first.low:.3f} to {first.high:.3f}".replace("-", "−") in page.text
    cells = [attributes.get("data-label") for attributes in page.all("td") if "data-label" in attributes]
    assert cells.count("verdict") == len(whole.claims)


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
    assert {claim.verdict for claim in written.claims} == {UNDECIDED}


def test_no_controls_and_no_dimensions_leave_no_empty_figures(tmp_path, quick):
    size = (2, 1, 0)
    written = write(store(tmp_path, study_tables(size=size, dimension=False), configuration(size=size)))
    page = Page(written.page)
    assert not [path for path in written.figures if path.name.startswith(("control", "dimension"))]
    assert "No network was retrained without pruning" in page.text
    assert "Intrinsic dimensions were not estimated" in page.text
    assert "2 levels, 1 replicate, no control; 3 of 3 networks finished" in page.text


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
