"""What the processor of this machine offers."""

from __future__ import annotations

from functools import cache

__all__ = ["host_lanes"]


@cache
def host_lanes() -> int:
    """Widest vector of float64 the processor has: 8 with AVX-512, 4 with AVX2, else 2 (SSE2, NEON)."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 8
    return 4 if features.get("avx2") and features.get("fma") else 2
