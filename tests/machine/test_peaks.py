"""The measured peaks of this machine."""

from prunecca.machine import peaks


def test_peaks_are_positive_and_name_their_threads(monkeypatch):
    monkeypatch.setattr(peaks, "_BUFFER_BYTES", 1 << 20)
    found = peaks.measure_peaks(threads=1, repeats=1)
    assert found.threads == 1
    assert min(found.float32, found.float64, found.read, found.copy) > 0
    assert peaks.fma_rate(threads=1, float64=True) > 0
