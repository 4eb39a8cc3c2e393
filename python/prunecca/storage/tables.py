"""Tables as files: the same table gives the same bytes."""

from __future__ import annotations

import io

import pandas as pd


def parquet(table: pd.DataFrame) -> bytes:
    """The table as the bytes of a Parquet file; the same table gives the same bytes."""
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()
