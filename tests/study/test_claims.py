"""Claims: which process makes which piece."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from prunecca import errors
from prunecca.study import claims

LIMITED = """
    import resource, signal, sys
    from prunecca.errors import StorageError
    from prunecca.study import claims
    from pathlib import Path
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        claims.Claim.take(folder / "claim")
    except StorageError as error:
        print(error)
"""


def test_not_one_byte_can_be_written_is_one_sentence_and_leaves_no_claim(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)]
    (line,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert line.startswith(f"cannot write {tmp_path / 'claim'}: it is larger than this process may write; raise")
    assert os.listdir(tmp_path) == [".lock"], "a claim without a name would hold the piece"


def test_a_read_only_folder_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(errors.StorageError, match="read-only"):
        claims.Claim.take(tmp_path / "a" / "b")


def test_claim_is_exclusive_until_released(tmp_path):
    first = claims.Claim.take(tmp_path / "piece")
    assert first is not None
    assert claims.Claim.take(tmp_path / "piece") is None
    first.release()
    with claims.Claim.take(tmp_path / "piece") as second:
        second.check()
    assert not (tmp_path / "piece").exists()


def test_claim_of_a_dead_process_is_taken_over(tmp_path):
    program = f"""
        import os, signal
        from pathlib import Path
        from prunecca.study.claims import Claim
        claim = Claim.take(Path({str(tmp_path / "piece")!r}))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program)]).returncode == -signal.SIGKILL
    assert (tmp_path / "piece").exists()
    with claims.Claim.take(tmp_path / "piece") as claim:
        claim.check()


def test_claim_whose_maker_was_killed_before_it_had_written_its_name_is_soon_taken_over(tmp_path):
    path = tmp_path / "piece"
    path.touch()
    assert claims.Claim.take(path) is None, "it may be being written on a disk that is shared"
    assert claims.holder(path) == "another process"
    before = path.stat().st_mtime - 11
    os.utime(path, (before, before))
    with claims.Claim.take(path) as claim:
        claim.check()


def test_siblings_are_the_children_of_the_same_process(tmp_path):
    path = tmp_path / "piece"
    assert not claims.held_by_sibling(path)
    with claims.Claim.take(path):
        assert claims.held_by_sibling(path), "this process has the same parent as itself"
        owner = claims.read_owner(path)
        path.write_text(json.dumps({**owner, "pid": 1}))
        assert not claims.held_by_sibling(path)
        path.write_text(json.dumps(owner))


def test_claim_of_another_machine_is_taken_over_only_when_silent(tmp_path):
    path = tmp_path / "piece"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "space": "elsewhere", "token": "x"}))
    assert claims.Claim.take(path) is None
    silent = path.stat().st_mtime - claims.STALE_SECONDS - 5
    os.utime(path, (silent, silent))
    with claims.Claim.take(path) as claim:
        claim.check()


def test_claim_that_was_taken_over_is_noticed(tmp_path):
    claim = claims.Claim.take(tmp_path / "piece")
    (tmp_path / "piece").write_text(json.dumps({"host": "elsewhere", "token": "x"}))
    with pytest.raises(errors.ClaimLost, match="piece was taken over"):
        claim.check()
    claim.release()
    assert (tmp_path / "piece").exists(), "the new owner's claim is not ours to remove"


def test_each_piece_is_taken_exactly_once(tmp_path):
    taken = []

    def take_all():
        for number in range(30):
            claim = claims.Claim.take(tmp_path / str(number))
            if claim is not None:
                taken.append((number, claim))

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in taken) == list(range(30))
    for _, claim in taken:
        claim.release()
