"""Files that are whole or absent."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from prunecca import errors
from prunecca.storage import atomic, states


def test_interrupted_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "table.csv"
    atomic.write_atomic(path, b"old")

    def interrupted(stream):
        stream.write(b"new, but only h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic.write_atomic(path, interrupted)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    states.save_state(path, {"a": torch.ones(2)})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.StorageError, match=r"cannot write .*state\.safetensors: the disk is full"):
        states.save_state(path, {"a": torch.zeros(2)})
    monkeypatch.undo()
    assert torch.equal(states.load_state(path)[0]["a"], torch.ones(2))
    assert os.listdir(tmp_path) == ["state.safetensors"]


LIMITED = """
    import resource, signal, sys
    from prunecca.errors import StorageError
    from prunecca.storage import states
    from pathlib import Path
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        states.write_json(folder / "level.json", {"a": 2})
    except StorageError as error:
        print(error)
"""


def test_not_one_byte_can_be_written_is_one_sentence_and_leaves_nothing(tmp_path):
    states.write_json(tmp_path / "level.json", {"a": 1})
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = said
    assert line.startswith(f"cannot write {tmp_path / 'level.json'}: it is larger than this process may write; raise")
    assert states.read_json(tmp_path / "level.json") == {"a": 1}
    assert os.listdir(tmp_path) == ["level.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EDQUOT, "the disk is full"), (errno.EIO, "the disk reports an error"), (errno.EROFS, "is read-only")],
)
def test_refusals_of_the_disk_are_one_sentence(tmp_path, monkeypatch, number, words):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(errors.StorageError, match=words):
        states.write_json(tmp_path / "level.json", {})
    assert os.listdir(tmp_path) == []


def test_read_only_folder_is_one_sentence(tmp_path, monkeypatch):
    # The super-user may write everywhere, so the refusal is the file system's own error, put in its place.
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(errors.StorageError, match="read-only"):
        atomic.write_atomic(tmp_path / "a" / "b.json", b"")


def test_file_in_the_place_of_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="is a file, not a folder"):
        atomic.write_atomic(tmp_path / "file" / "state", b"")


def test_killed_writer_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "state.safetensors"
    states.save_state(path, {"a": torch.ones(2)})
    program = f"""
        import os, signal
        from prunecca.storage.atomic import write_atomic
        def die(stream):
            stream.write(b"half")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        write_atomic({str(path)!r}, die)
    """
    code = subprocess.run([sys.executable, "-c", textwrap.dedent(program)]).returncode
    assert code == -signal.SIGKILL
    assert torch.equal(states.load_state(path)[0]["a"], torch.ones(2))
    assert len(os.listdir(tmp_path)) == 2
    atomic.remove_partial(tmp_path)
    assert os.listdir(tmp_path) == ["state.safetensors"]
