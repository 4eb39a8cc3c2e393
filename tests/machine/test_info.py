"""What the build says of itself."""

import pytest
import torch

import prunecca as pc
from prunecca.machine.info import choose_device


def test_build_info_names_what_was_built():
    info = pc.build_info()
    assert info["version"] == pc.__version__
    assert info["cpu_level"] in ("baseline", "avx2", "avx512", "amx")
    assert info["threads"] >= 1


def test_unknown_cpu_level_is_refused():
    with pytest.raises(ValueError, match="expected baseline, avx2, avx512 or amx"):
        pc.set_cpu_level("sse9")


@pytest.mark.skipif(pc.build_info()["cpu_level_best"] == "amx", reason="this machine has it")
def test_a_level_that_the_machine_lacks_is_refused():
    best = pc.build_info()["cpu_level_best"]
    with pytest.raises(ValueError, match=f"CPU level 'amx' was asked for, but this machine has only '{best}'"):
        pc.set_cpu_level("amx")
    assert pc.cpu_level() != "amx"


def test_the_stand_in_is_chosen_by_name_alone():
    before = pc.cpu_level()
    try:
        pc.set_cpu_level("amx_emulated")
        assert pc.cpu_level() == "amx_emulated"
        assert pc.build_info()["cpu_level_best"] != "amx_emulated"
    finally:
        pc.set_cpu_level(before)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_workers_go_round_the_gpus(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device(name) == "cuda:0"
    assert [choose_device(name, worker) for worker in range(5)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert choose_device("cuda:1", 2) == "cuda:1"
    assert choose_device("cpu", 2) == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_device(name) == "cuda:2"
