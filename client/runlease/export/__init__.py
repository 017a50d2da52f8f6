"""Histories as files: Parquet, CSV, JSON Lines; a file is there whole or not at all.

Long files have a row a point: key, step, value, time (UNIX seconds), attempt, writer, and superseded where such points
were asked for. Wide ones have a row a step and a column a key. Values and times keep all their digits. JSON has no NaN
and no infinities: there these values are the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

from runlease.export.files import TargetExists, new_file
from runlease.export.rows import FORMATS, MISSING_PYARROW, Columns, open_rows
from runlease.export.wide import write_wide

__all__ = ["FORMATS", "MISSING_PYARROW", "Columns", "TargetExists", "new_file", "open_rows", "write_wide"]
