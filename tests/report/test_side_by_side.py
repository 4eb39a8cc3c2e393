"""Runs side by side: their page and tables, and what is said where they cannot be compared."""

import pandas as pd
import pytest
from pages import Page
from reports import configuration, store, study_tables
from side_runs import BASE, side_run, twelve_runs
from typer.testing import CliRunner

from prunecca.cli.main import app
from prunecca.errors import ConfigurationError
from prunecca.report import side_by_side
from prunecca.report.report import write
from prunecca.study.options import Options


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, and empty files take the place of theirs."""

    def save(figure, path, kinds, within):
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [path.with_name(f"{path.name}.{kind}") for kind in kinds]
        for file in files:
            file.write_bytes(b"")
        return files

    monkeypatch.setattr(side_by_side.style, "save", save)
    monkeypatch.setattr(side_by_side.style, "as_svg", lambda figure: b"<svg/>")


@pytest.fixture
def two(tmp_path):
    return [
        side_run(tmp_path / "a", recipe="weight_rewinding"),
        side_run(tmp_path / "b", recipe="fine_tuning", loss=0.01, power=1.02),
    ]


def test_recipes_lie_side_by_side_with_the_numbers_of_each(two, tmp_path, quick_figures):
    report = write(two)
    assert report.page == two[0] / "side-by-side" / "index.html"
    page = Page(report.page)
    for words in ("2 runs side by side", "weight_rewinding", "fine_tuning", "level 3: 51.2 %", "level 3: 50.5 %"):
        assert words in page.text
    assert [path.name for path in report.tables] == ["accuracy.csv", "similarity.csv", "claims.csv"]
    accuracy = pd.read_csv(report.tables[0]).set_index(["run", "control", "level"])
    third = accuracy.loc[("fine_tuning", False, 3)]
    # 0.9 - 0.004 * 3 + 0.001 * {0, 1, 2}, and 0.01 less for each of three levels
    assert third[["median", "least", "greatest"]].tolist() == pytest.approx([0.859, 0.858, 0.860])
    assert third["density"] == pytest.approx(0.8 ** (3 * 1.02))
    assert third["networks"] == 3
    assert accuracy.loc[("fine_tuning", False, 0), "networks"] == 1
    assert accuracy.loc[("weight_rewinding", False, 3), "shared_density"] == third["shared_density"]
    similarity = pd.read_csv(report.tables[1]).query("run == 'fine_tuning' and not control and level == 3")
    wanted = [1 - (0.15 + 0.02 * depth + 0.003) - 0.03 for depth in range(4)]
    assert similarity["median"].tolist() == pytest.approx(wanted)
    claims = pd.read_csv(report.table)
    assert set(claims["run"]) == {"weight_rewinding", "fine_tuning"}
    assert len(claims) == len(report.claims)
    kinds = {path.name for path in report.figures}
    assert {"accuracy-digits2.svg", "accuracy-digits2.png", "control-svcca-digits2.svg"} <= kinds
    control = " ".join(page.text.split("The controls:")[1].split())
    # 1 - (0.01 + 0.02 * 1.5) for controls, 1 - (0.15 + 0.02 * 1.5 + 0.003) for pruned ones
    assert "weight_rewinding 1 90.00 % 0.960 0.817 51.2 % 0.143" in control


def test_an_unfinished_run_shows_what_it_has_and_one_that_has_nothing_is_named(two, tmp_path, quick_figures):
    empty = tmp_path / "c"
    empty.mkdir()
    store(empty, {}, configuration(options=Options.from_flags(**BASE, recipe="admm", penalty_epochs=1)))
    part = study_tables(size=(1, 1, 0), dimension=False)
    part = side_run(tmp_path / "d", made=part, recipe="random_mask")
    text = Page(write([*two, empty, part]).page).text
    assert "admm, penalty epochs 1: nothing is finished. Still to come: digits2 level 0" in text
    assert "admm, penalty epochs 1 has nothing finished of digits2 yet." in text
    assert "random_mask: 2 of 11 networks finished" in text
    assert "nan" not in text


def test_runs_without_a_shared_problem_or_other_images_are_refused_in_one_sentence(two, tmp_path):
    other = side_run(tmp_path / "other", problems=("digits6",), recipe="l1", penalty_epochs=1)
    with pytest.raises(
        ConfigurationError, match=r"no two runs share a problem: weight_rewinding has digits2; l1.* has digits6"
    ):
        write([two[0], other])
    config = configuration(options=Options.from_flags(**BASE, recipe="l1", penalty_epochs=1))
    config["problems"]["digits2"]["settings"]["dataset"] = "cifar10"
    (tmp_path / "images").mkdir()
    images = store(tmp_path / "images", study_tables(), config)
    with pytest.raises(
        ConfigurationError, match=r"the images of digits2 in l1.* are not those of weight_rewinding; expected"
    ):
        write([two[0], images])


def test_what_three_runs_do_not_share_is_left_out_and_said(two, tmp_path, quick_figures):
    measured = side_run(tmp_path / "other", recipe="admm", penalty_epochs=1, images=40)
    report = write([*two, measured])
    text = Page(report.page).text
    assert "(40 images of seed 0, variance 0.99) than in weight_rewinding and fine_tuning (48 images" in text
    assert "its similarity is left out" in text
    assert set(pd.read_csv(report.tables[1])["run"]) == {"weight_rewinding", "fine_tuning"}
    assert "admm, penalty epochs 1" in set(pd.read_csv(report.tables[0])["run"])


def test_a_run_without_an_equal_density_is_said(two, tmp_path, quick_figures):
    far = side_run(tmp_path / "far", recipe="one_shot", power=9)
    text = Page(write([*two, far]).page).text
    assert "one_shot has no level of about the density of another run" in text


def test_folders_of_one_study_are_one_run_beside_another(two, tmp_path, quick_figures):
    same = side_run(tmp_path / "again", recipe="weight_rewinding")
    page = Page(write([two[0], same, two[1]], tmp_path / "out").page)
    assert "2 runs side by side" in page.text
    assert "a + again" in page.text


def test_twelve_runs_fit(tmp_path, quick_figures):
    page = Page(write(twelve_runs(tmp_path), tmp_path / "out").page)
    assert "12 runs side by side" in page.text
    assert len({tuple(sorted(line.items())) for line in page.all("line")}) == 12, "no two are drawn alike"
    assert len(page.all("img")) == 4


def test_the_command_line_tells_where_everything_is(two, tmp_path, quick_figures):
    arguments = ["report", *map(str, two), "--out", str(tmp_path / "out"), "--metric", "linear_cka"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for name in ("index.html", "accuracy.csv", "similarity.csv", "claims.csv"):
        assert str(tmp_path / "out" / name) in result.output
        assert (tmp_path / "out" / name).exists()
    refused = CliRunner().invoke(app, [*arguments[:-1], "cosine"])
    assert "no run has the metric 'cosine'; they have svcca, linear_cka" in str(refused.exception or refused.output)
