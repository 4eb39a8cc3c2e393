"""A table as a file, .csv or .parquet: the same table gives the same bytes, and no file of others fills the memory."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CorruptFile
from .atomic import write_atomic
from .regular_files import read_regular

LARGEST_TABLE = 128 << 20  # bytes of a file
MOST_ROWS = 1_000_000
_MOST_COLUMNS = 64
_LONGEST_TEXT = 500  # characters
_MOST_BYTES = 1 << 30  # of a Parquet file's columns, unpacked
# What parsers raise of content that nobody wrote on purpose.
_UNREADABLE = (ValueError, OSError, TypeError, KeyError, RuntimeError, MemoryError, OverflowError, Warning, csv.Error)
_LARGEST = 1e15  # of a number
_KINDS = {
    "text": "text",
    "int": f"whole numbers from 0 to {_LARGEST:g}",
    "float": f"numbers up to {_LARGEST:g}",
    "bool": "True or False",
}


def write_table(path: str | os.PathLike[str], table: pd.DataFrame, within: Path | None = None) -> None:
    """Write a table to a ``.csv`` or ``.parquet`` file, whole or not at all; the index is left out.

    Args:
        path: of the file; its ending decides the format.
        table: what is written.
        within: the folder below which no link is followed.

    Raises:
        ValueError: the ending is another.
        StorageError: the disk is full, or the folder cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".csv":
        write_atomic(path, table.to_csv(index=False).encode(), within)
    elif suffix == ".parquet":
        write_atomic(path, parquet(table), within)
    else:
        raise ValueError(f"{path} ends in {suffix!r}; expected a file name ending in .csv or .parquet")


def parquet(table: pd.DataFrame) -> bytes:
    """The table as the bytes of a Parquet file."""
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()


def read_table(path: Path, columns: Mapping[str, str], within: Path | None = None) -> pd.DataFrame:
    """A table from a ``.csv`` or ``.parquet`` file that may come from someone else.

    Args:
        path: of the file.
        columns: the kind of every column that the table may have: ``"text"``, ``"int"``, ``"float"`` or ``"bool"``.
        within: the folder below which no link is followed.

    Returns:
        The table; without columns where the file has none.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: it is no such table, or larger than such tables are; the sentence names the column.
    """
    data = read_regular(path, LARGEST_TABLE, within)
    try:
        table = _parquet(data) if path.suffix == ".parquet" else _csv(data, columns)
    except pd.errors.EmptyDataError:  # how a table without columns is written
        return pd.DataFrame()
    except _TooLarge as error:
        raise CorruptFile(f"{path} has {error}") from None
    except _UNREADABLE as error:
        raise CorruptFile(f"{path} is damaged: it cannot be read as a table; restore it") from error
    for column in table.columns:
        if column not in columns:
            raise CorruptFile(f"{path} has a column {column!r:.60}; expected only {', '.join(columns)}")
        if len(table):
            _check_column(path, table[column], columns[column])
    return table


class _TooLarge(Exception):
    """The sentence, without its subject."""


def _parquet(data: bytes) -> pd.DataFrame:
    """The columns of plain numbers and texts; what is repeated is unpacked only when its size is known."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    told = file.metadata
    groups = [told.row_group(number) for number in range(told.num_row_groups)] if told.num_row_groups < 10_000 else []
    unpacked = sum(g.column(c).total_uncompressed_size for g in groups for c in range(g.num_columns))
    _limit(told.num_row_groups, 9_999, "row groups")
    _limit(told.num_rows, MOST_ROWS, "rows")
    _limit(told.num_columns, _MOST_COLUMNS, "columns")
    _limit(unpacked, _MOST_BYTES, "bytes when unpacked")
    schema = file.schema_arrow
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    for field in schema:
        kind = field.type
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if not (plain or pa.types.is_null(kind) or field.name in texts):
            raise ValueError(f"column {field.name!r} is of type {kind}")
    table = pq.read_table(io.BytesIO(data), read_dictionary=texts, pre_buffer=False)
    _limit(table.num_rows, MOST_ROWS, "rows")
    for name in texts:
        place = table.schema.get_field_index(name)
        longest = max(
            (len(text) for part in table.column(place).chunks for text in part.dictionary.to_pylist()), default=0
        )
        _limit(longest, _LONGEST_TEXT, f"characters in a text of {name}")
        table = table.set_column(place, schema.field(name), table.column(place).cast(schema.field(name).type))
    frame: pd.DataFrame = table.to_pandas()
    return frame.reset_index(drop=True)


def _csv(data: bytes, columns: Mapping[str, str]) -> pd.DataFrame:
    header = data[: 1 << 16].split(b"\n", 1)[0].decode()
    _limit(header.count(",") + 1, _MOST_COLUMNS, "columns")
    texts = {name: str for name, kind in columns.items() if kind == "text"}  # a layer may be called "0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as one of rows that are longer than the header
        table = pd.read_csv(io.BytesIO(data), dtype=texts, nrows=MOST_ROWS + 1, index_col=False)
    _limit(len(table), MOST_ROWS, "rows")
    for name in texts:
        if name in table and len(table):
            _limit(int(table[name].str.len().max()), _LONGEST_TEXT, f"characters in a text of {name}")
    return table


def _limit(number: int, most: int, what: str) -> None:
    if number > most:
        raise _TooLarge(f"{number} {what}; expected at most {most}")


def _check_column(path: Path, column: pd.Series, kind: str) -> None:
    odd = _odd(column, kind)
    if odd.any():
        found = str(column[odd.to_numpy()].iloc[0])
        raise CorruptFile(f"{path} has {found[:60]!r} in its column {column.name}; expected {_KINDS[kind]}")


def _odd(column: pd.Series, kind: str) -> pd.Series:
    """Which values are not of the kind; a missing number is one, where it need not be whole."""
    if kind == "text":
        return ~column.map(lambda value: isinstance(value, str)).astype(bool)
    missing = column.isna()
    is_bool = pd.api.types.is_bool_dtype(column)
    if kind == "bool":
        return missing if is_bool else ~missing | missing
    if is_bool or not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        return ~missing
    values: Any = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if kind == "float":
        return pd.Series(np.isfinite(values) & (np.abs(values) > _LARGEST))
    return pd.Series(~((values >= 0) & (values <= _LARGEST) & (values == np.floor(values))))
