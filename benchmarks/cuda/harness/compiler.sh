#!/bin/sh
# Stands in for the C++ compiler of tests/cuda/emulated/build.py: the program was built by nvcc before, and lies in the
# folder PRUNECCA_PROGRAMS. The last argument is where it is wanted.
for word; do
  case $word in *.cpp) program=$(basename "$word" .cpp) ;; esac
done
exec cp "$PRUNECCA_PROGRAMS/$program" "$word"
