"""Results of a sweep that nobody ran: values of a plain formula, so that a figure's content can be predicted."""

import json

import numpy as np
import xarray as xr


def made_up_results(axes, *, failed=(), left=(), empty=(), extra=None, name="made up", coords=None):
    """`final_rank` = index of the first axis + 10 · index of the second + …, errors a tenth of 1 + that.

    Args:
        axes: Dimension → values.
        failed: Indices of failed cells.
        left: Indices of cells that are not computed.
        empty: Indices of cells that are done and have no value.
        extra: Further variables.
        name: Of the study.
        coords: Further coordinates.
    """
    shape = tuple(len(values) for values in axes.values())
    grids = np.indices(shape)
    value = sum(10.0**i * grid for i, grid in enumerate(grids)) if shape else np.array(0.0)
    error = 0.1 * (1 + value)
    status = np.ones(shape, dtype=np.int8)
    for indices, state in ((failed, 2), (left, 0)):
        for index in indices:
            status[index] = state
    for index in [*failed, *left, *empty]:
        value[index] = error[index] = np.nan
    dims = tuple(axes)
    return xr.Dataset(
        {
            "final_rank": (dims, value, {"long_name": "rank at the end"}),
            "final_rank_standard_error": (dims, error),
            "wall_time": (dims, np.ones(shape), {"units": "s"}),
            "checksum": (dims, np.ones(shape, dtype=np.uint64)),
            "status": (dims, status),
            **(extra or {}),
        },
        coords={**{dim: (dim, np.array(values)) for dim, values in axes.items()}, **(coords or {})},
        attrs={"study": json.dumps({"name": name})},
    )
