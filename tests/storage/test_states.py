"""Files that are whole or absent."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from prunecca import errors
from prunecca.storage import atomic, states
from prunecca.study import claims


def some_state():
    return {
        "weight": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "step": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "strided": torch.arange(6.0).reshape(2, 3).T,
    }


def test_state_round_trip(tmp_path):
    state, metadata = some_state(), {"epoch": 3, "history": [{"loss": 0.1}]}
    written = states.save_state(tmp_path / "state.safetensors", state, metadata)
    tensors, read = states.load_state(tmp_path / "state.safetensors")
    assert read == metadata
    assert written == states.digest(state) == states.digest(tensors)
    assert all(torch.equal(tensors[name], state[name]) and tensors[name].dtype == state[name].dtype for name in state)


def test_same_state_gives_the_same_bytes(tmp_path):
    state = {name: torch.ones(3) for name in "zyxabc"}
    for name in ("one", "two", "three"):
        states.save_state(tmp_path / name, dict(reversed(state.items())) if name == "two" else state, {"b": 1, "a": 2})
    assert len({(tmp_path / name).read_bytes() for name in ("one", "two", "three")}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0, 3.0])},  # value
        {"a": torch.tensor([[1.0, 2.0]])},  # shape
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},  # dtype
        {"b": torch.tensor([1.0, 2.0])},  # name
        {"a": torch.tensor([1.0, -2.0])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(0)},
    ],
)
def test_digest_tells_states_apart(other):
    assert states.digest({"a": torch.tensor([1.0, 2.0])}) != states.digest(other)


def test_digest_does_not_depend_on_order_or_strides():
    a, b = torch.randn(3, 4), torch.randn(2)
    assert states.digest({"a": a, "b": b}) == states.digest({"b": b, "a": a.T.contiguous().T})


def test_every_cut_of_a_state_is_detected(tmp_path):
    path = tmp_path / "state.safetensors"
    states.save_state(path, some_state(), {"epoch": 3})
    whole = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(errors.CorruptFile, match=r"state\.safetensors"):
            states.load_state(path)


def test_every_flipped_byte_of_the_content_is_detected(tmp_path):
    path = tmp_path / "state.safetensors"
    states.save_state(path, {"weight": torch.randn(4)}, {"epoch": 3, "accuracy": 0.75})
    whole = path.read_bytes()
    silent = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            tensors, metadata = states.load_state(path)
        except errors.CorruptFile:
            continue
        # The only bytes that may change unseen are paddings and spellings that do not reach the values.
        if metadata != {"epoch": 3, "accuracy": 0.75} or list(tensors) != ["weight"]:
            silent.append(place)
    assert silent == []


def test_missing_state_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        states.load_state(tmp_path / "none.safetensors")


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "level.json"
    states.write_json(path, {"accuracy": 0.9, "levels": [1, 2]})
    assert states.read_json(path) == {"accuracy": 0.9, "levels": [1, 2]}
    text = path.read_text()
    for damaged in (text[:-5], "", "[]", "{}", text.replace("0.9", "0.8")):
        path.write_text(damaged)
        with pytest.raises(errors.CorruptFile):
            states.read_json(path)


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
    from prunecca.study import claims
    from pathlib import Path
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    for write in (lambda: states.write_json(folder / "level.json", {"a": 2}), lambda: claims.Claim.take(folder / "claim")):
        try:
            write()
        except StorageError as error:
            print(error)
"""


def test_not_one_byte_can_be_written_is_one_sentence_and_leaves_nothing(tmp_path):
    states.write_json(tmp_path / "level.json", {"a": 1})
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, name in zip(said, ("level.json", "claim"), strict=True):
        assert line.startswith(f"cannot write {tmp_path / name}: it is larger than this process may write; raise")
    assert states.read_json(tmp_path / "level.json") == {"a": 1}
    assert sorted(os.listdir(tmp_path)) == [".lock", "level.json"], "a claim without a name would hold the piece"


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
    with pytest.raises(errors.StorageError, match="read-only"):
        claims.Claim.take(tmp_path / "a" / "b")


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
