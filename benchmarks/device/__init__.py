"""What ``benchmarks/gpu.py`` times on a CUDA device, by noun."""
