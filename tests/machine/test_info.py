"""What the build says of itself."""

import pytest

import prunecca as pc


def test_build_info_names_what_was_built():
    info = pc.build_info()
    assert info["version"] == pc.__version__
    assert info["cpu_level"] in ("baseline", "avx2", "avx512")
    assert info["threads"] >= 1


def test_unknown_cpu_level_is_refused():
    with pytest.raises(ValueError, match="expected baseline, avx2 or avx512"):
        pc.set_cpu_level("sse9")
