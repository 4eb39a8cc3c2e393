"""Files are opened only where they are files, of a bounded size, and behind no link where a folder is not ours."""

import os
import zipfile

import pytest
import torch
from hostile import PLANTS, fingerprint, plant, soon

from prunecca.errors import CorruptFile, StorageError
from prunecca.storage import atomic, states
from prunecca.storage.regular_files import check_archive, exists, open_regular, read_regular, remove

SPECIAL = [kind for kind in PLANTS if kind not in ("link", "dangling", "loop")]


@pytest.fixture
def place(tmp_path):
    """A folder, and another beside it whose files must stay."""
    for name in ("run", "outside"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text(name)
        (tmp_path / name / "sub" / ".file.1-2.partial").write_text(name)
    return tmp_path


@pytest.mark.parametrize("kind", PLANTS)
def test_inside_a_folder_only_files_are_read(place, kind):
    path = place / "run" / "sub" / "file"
    assert read_regular(path, 10, place / "run") == b"run"
    plant(kind, path, place / "outside" / "sub" / "file")
    words = {"pipe": "a named pipe", "socket": "a socket", "folder": "a folder"}.get(kind, "a link")
    with soon(), pytest.raises(CorruptFile, match=f"file is {words}, where a file is expected; remove it"):
        read_regular(path, 10, place / "run")
    assert exists(path, place / "run")


@pytest.mark.parametrize("kind", SPECIAL)
def test_of_a_path_of_the_user_links_are_followed_but_only_to_files(place, kind):
    path = place / "run" / "link"
    path.symlink_to(place / "outside" / "sub" / "file")
    assert read_regular(path, 10) == b"outside"
    plant(kind, path, place / "outside" / "sub" / "file")
    with soon(), pytest.raises(CorruptFile, match="where a file is expected"):
        open_regular(path)


def test_a_file_that_is_too_large_is_not_read(place):
    path = place / "run" / "sub" / "file"
    with pytest.raises(CorruptFile, match="has 3 bytes; expected at most 2"):
        read_regular(path, 2)


def test_a_file_behind_a_link_is_neither_read_nor_written_nor_removed(place):
    run, outside = place / "run", fingerprint(place / "outside")
    (run / "link").symlink_to(place / "outside" / "sub")
    path = run / "link" / "file"
    for use in (
        lambda: atomic.write_atomic(path, b"new", run),
        lambda: atomic.write_atomic(run / "link" / "more" / "file", b"new", run),
        lambda: remove(path, run),
        lambda: atomic.remove_partial(run / "link", within=run),
    ):
        with pytest.raises(StorageError, match="link is a link, and none is followed inside a run directory"):
            use()
    for use in (lambda: read_regular(path, 10, run), lambda: atomic.file_digest(path, run), lambda: exists(path, run)):
        with pytest.raises(CorruptFile, match="is a link"):
            use()
    assert fingerprint(place / "outside") == outside


def test_what_does_not_lie_in_the_folder_is_refused(place):
    for path in (place / "run" / ".." / "outside" / "sub" / "file", place / "run"):
        with pytest.raises(StorageError, match="does not lie in"):
            atomic.write_atomic(path, b"new", place / "run")
    assert (place / "outside" / "sub" / "file").read_text() == "outside"


@pytest.mark.parametrize("kind", [kind for kind in PLANTS if kind != "folder"])
def test_what_is_written_takes_the_place_of_anything_but_a_folder(place, kind):
    path, outside = place / "run" / "sub" / "file", fingerprint(place / "outside")
    plant(kind, path, place / "outside" / "sub" / "file")
    with soon():
        atomic.write_atomic(path, b"new", place / "run")
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    assert fingerprint(place / "outside") == outside


def test_another_name_of_a_written_file_keeps_its_content(place):
    path, other = place / "run" / "sub" / "file", place / "outside" / "other"
    os.link(path, other)
    atomic.write_atomic(path, b"new", place / "run")
    assert other.read_text() == "run"


@pytest.mark.parametrize("kind", ["zero", "pipe", "socket", "folder"])
def test_a_path_of_the_user_that_is_no_file_is_not_replaced(place, kind):
    path = place / "run" / "out"
    plant(kind, path, place)
    with soon(), pytest.raises(StorageError, match=r"cannot write .*out: it is a"):
        atomic.write_atomic(path, b"new")
    assert fingerprint(place / "run")[str(path)][1] == os.lstat(path).st_mode


def test_a_name_that_is_too_long_is_one_sentence(place):
    with pytest.raises(StorageError, match="the name is too long for this file system"):
        atomic.write_atomic(place / ("x" * 300), b"new")


def test_half_written_files_go_and_what_looks_like_them_stays(place):
    (place / "run" / "sub" / ".other.3-4.partial").mkdir()
    atomic.remove_partial(place / "run" / "sub", within=place / "run")
    assert sorted(os.listdir(place / "run" / "sub")) == [".other.3-4.partial", "file"]
    remove(place / "run" / "sub" / "none", place / "run")
    with pytest.raises(StorageError, match="is a folder, where a file is expected"):
        remove(place / "run" / "sub", place / "run")


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "NaN", "-Infinity", "1e999", "9" * 10**5, "\xff", "{"])
def test_json_that_would_break_something_is_a_value_error(text):
    with soon(), pytest.raises(ValueError):
        states.parse_json(text.encode("latin-1"))


def test_headers_that_would_fill_the_memory_are_not_parsed(place):
    path = place / "run" / "sub" / "file"
    with open(path, "wb") as stream:
        stream.write((90 << 20).to_bytes(8, "little") + b"{" * 100)
        stream.truncate(100 << 20)
    with soon(), pytest.raises(CorruptFile, match="is not a whole state file"):
        states.load_state(path)


def test_compressed_archives_are_refused_before_torch_unpacks_them(place):
    path = place / "run" / "weights.pt"
    torch.save({"weight": torch.zeros(1000)}, path)
    check_archive(path)
    with zipfile.ZipFile(path) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    with pytest.raises(CorruptFile, match=r"weights\.pt is a compressed archive, which torch\.save does not write"):
        check_archive(path)
    path.write_bytes(b"no archive")
    check_archive(path)
