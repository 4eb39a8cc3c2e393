"""``python -m prunecca`` is the ``prunecca`` command; torchrun starts it this way."""

from .cli import main

if __name__ == "__main__":  # worker processes import this file, and must not run the command again
    main()
