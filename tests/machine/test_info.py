"""What the build says of itself."""

import pytest

import prunecca as pc


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
