"""A table as a file, .csv or .parquet: the same table gives the same bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd

from .atomic import write_atomic


def write_table(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table to a ``.csv`` or ``.parquet`` file, whole or not at all; the index is left out.

    Args:
        path: of the file; its ending decides the format.
        table: what is written.

    Raises:
        ValueError: the ending is another.
        StorageError: the disk is full, or the folder cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".csv":
        write_atomic(path, table.to_csv(index=False).encode())
    elif suffix == ".parquet":
        write_atomic(path, parquet(table))
    else:
        raise ValueError(f"{path} ends in {suffix!r}; expected a file name ending in .csv or .parquet")


def parquet(table: pd.DataFrame) -> bytes:
    """The table as the bytes of a Parquet file."""
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()
