"""Reading a sweep: one labelled dataset over its axes."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankfall.errors import NotARun
from rankfall.sweep._durable import read_plain
from rankfall.sweep._layout import FORMAT

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["check_store", "open_results"]

_LARGEST_METADATA = 1 << 26
_LONGEST_COORDINATE = 10**7
_TYPES = {"float64", "int64", "int8", "uint64", "bool", "string"}
# Never "pickle" or anything else that could run or inflate: what is not in this list is not read.
_CODECS = {"bytes", "crc32c", "vlen-utf8"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def open_results(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open the results of a sweep as one dataset over its axes; also while the sweep is still running.

    It is what `xarray.open_zarr(path)` returns, after a look at what the store asks for. Values are read when they are
    used. A cell that is not there yet is NaN (whole numbers: -1), and `status` is 0; it is 1 for done and 2 for failed.
    Cells of the last seconds of a running sweep are still missing until it folds them in, and so are those of one that
    was killed until it is continued.

    Args:
        path: The folder that the sweep wrote.

    Returns:
        Dataset with the study's dimensions and coordinates, its quantities, `status`, `wall_time` (s) and `checksum`;
        the study as JSON in the attribute `study`.

    Raises:
        NotARun: There is no store of a sweep, it is damaged, or written by a newer version.

    Example:
        >>> import rankfall as rf
        >>> rf.sweep.open_results("nowhere.zarr")
        Traceback (most recent call last):
            ...
        rankfall.errors.NotARun: there is no folder nowhere.zarr.
    """
    import xarray as xr

    root = Path(path)
    check_store(root)
    try:
        results: xr.Dataset = xr.open_zarr(
            root, consolidated=True, zarr_format=3, chunks=None, decode_times=False, decode_timedelta=False
        )
        return results
    except Exception as error:  # zarr and xarray raise nearly anything on damaged stores
        raise NotARun(
            f"{root} is damaged ({type(error).__name__}: {str(error)[:200]}); run the sweep again to mend it."
        ) from None


def check_store(root: Path) -> None:
    """Make sure that a folder is a store of a sweep and asks for nothing unusual, from its metadata alone.

    Raises:
        NotARun: It is not, or does.
    """
    if not os.path.lexists(root):
        raise NotARun(f"there is no folder {root}.")
    if not root.is_dir():
        raise NotARun(f"{root} is not a folder, and the results of a sweep are one.")
    try:
        content = read_plain(root / "zarr.json", at_most=_LARGEST_METADATA)
        if content is None:
            raise NotARun(f"{root} is not the store of a sweep: it has no zarr.json.")
        fields = json.loads(content)
        version = fields["attributes"]["rankfall_sweep"]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError
        if version > FORMAT:
            raise NotARun(
                f"{root} was written by a newer rankfall (format {version}; this one reads up to {FORMAT}): upgrade "
                "rankfall."
            )
        arrays = fields["consolidated_metadata"]["metadata"]
        usual = all(_is_usual(name, array) for name, array in arrays.items())
    except NotARun:
        raise
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.EISDIR):
            raise NotARun(f"{root} cannot be read: {error.strerror or error}.") from None
        usual = False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotARun(f"{root} is not the store of a rankfall sweep, or its zarr.json is damaged.") from None
    if not usual or not all(_holds_plain_files(root / name) for name in arrays):
        raise NotARun(f"{root} holds arrays or links that rankfall never writes; it is not read.")


def _holds_plain_files(folder: Path) -> bool:
    """Whether nothing in the folder of an array leads elsewhere or never ends: no link, no pipe, no device."""
    if folder.is_symlink():
        return False
    try:
        with os.scandir(folder) as entries:
            return all(entry.is_file(follow_symlinks=False) or not os.path.lexists(entry.path) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):  # a store without values yet, or a damaged one
        return True


def _is_usual(name: Any, array: Mapping[str, Any]) -> bool:
    """Whether an array is of a type, of codecs and of a size that a sweep writes."""
    shape, codecs = array["shape"], [codec["name"] for codec in array["codecs"]]
    of_coordinate = len(shape) == 1 and array["dimension_names"] == [name]
    return (
        _NAME.fullmatch(name) is not None
        and array["node_type"] == "array"
        and array["data_type"] in _TYPES
        and set(codecs) <= _CODECS
        and not array.get("storage_transformers")
        and all(isinstance(n, int) and n > 0 for n in shape)
        and len(array["dimension_names"]) == len(shape)
        and not (of_coordinate and shape[0] > _LONGEST_COORDINATE)
    )
