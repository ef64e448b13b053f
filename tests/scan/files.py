"""Small checkpoints for the tests of the scan."""

from __future__ import annotations

import json

import numpy as np


def planted(values, rows, columns, seed=0):
    """A float64 matrix with given singular values, and random singular vectors."""
    generator = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    left, _ = np.linalg.qr(generator.normal(size=(rows, len(values))))
    right, _ = np.linalg.qr(generator.normal(size=(columns, len(values))))
    return (left * values) @ right.T


def write_raw(path, header, data=b"", length=None):
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(begin=0, end=16, dtype="F32", shape=(2, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
