"""What is measured on a CUDA device, by noun, and the stages of a first run on one."""
