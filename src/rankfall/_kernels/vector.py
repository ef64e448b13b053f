"""An explicit SIMD type for numba: a vector of 1, 2, 4 or 8 float64 lanes, one trajectory per lane.

Auto-vectorisation of the same loops is a matter of luck (a second array argument or a runtime stride turns it off
silently, at 4 to 7 times the cost). With the type spelled out, the width is what we asked for, every operation is
correctly rounded on its own lane, and a lane's result does not depend on the width: kernels of any width agree to the
last bit. The operations are module-level names with the width at the end (`load8`, `fma8`, …), because numba resolves
globals of the calling module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.extending import models, register_model
from numba.extending import intrinsic

WIDTHS = (1, 2, 4, 8)
OPERATIONS = (
    "load",
    "store",
    "splat",
    "fma",
    "mul",
    "add",
    "sub",
    "div",
    "sqrt",
    "absolute",
    "larger",
    "choose",
    "any_above",
    "power_of_two",
)
_DOUBLE = ir.DoubleType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
# A float64 n + 1.5·2⁵² has the integer n in the lowest bits of its mantissa, whose other bits are those of the shift.
INTEGER_SHIFT = 1.5 * 2.0**52
_BITS_OF_ONE, _MANTISSA_BITS = 0x3FF0000000000000, 52


class LaneType(types.Type):
    """The numba type of a vector of `width` float64 lanes."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"float64x{width}")


@register_model(LaneType)
class _LaneModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: LaneType) -> None:
        super().__init__(manager, kind, ir.VectorType(_DOUBLE, kind.width))


def _make_operations(width: int) -> dict[str, Callable[..., Any]]:
    """Build the intrinsics of one width."""
    lane = LaneType(width)
    vector = ir.VectorType(_DOUBLE, width)

    def pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())

    def call(builder: Any, name: str, arguments: list[Any]) -> Any:
        """Call an LLVM intrinsic on vectors; llvmlite's own declare_intrinsic rejects vector types."""
        full = f"llvm.{name}.v{width}f64"
        function = builder.module.globals.get(full) or ir.Function(
            builder.module, ir.FunctionType(vector, [vector] * len(arguments)), full
        )
        return builder.call(function, arguments)

    @intrinsic
    def load(typing: Any, array: Any, index: Any) -> Any:
        """Lanes array[index : index + width]."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(pointer(context, builder, signature, arguments), align=8)

        return lane(array, types.int64), generate

    @intrinsic
    def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
        """array[index : index + width] = lanes."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[2], pointer(context, builder, signature, arguments), align=8)
            return context.get_dummy_value()

        return types.none(array, types.int64, lane), generate

    @intrinsic
    def splat(typing: Any, number: Any) -> Any:
        """The same number in all lanes."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, arguments[0], ir.Constant(_INT32, 0))
            return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, width), [0] * width))

        return lane(types.float64), generate

    @intrinsic
    def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
        """a·b + c, rounded once."""
        return lane(lane, lane, lane), lambda context, builder, signature, x: call(builder, "fma", list(x))

    @intrinsic
    def sqrt(typing: Any, a: Any) -> Any:
        return lane(lane), lambda context, builder, signature, x: call(builder, "sqrt", list(x))

    @intrinsic
    def absolute(typing: Any, a: Any) -> Any:
        return lane(lane), lambda context, builder, signature, x: call(builder, "fabs", list(x))

    def binary(operation: str) -> Callable[..., Any]:
        @intrinsic
        def apply(typing: Any, a: Any, b: Any) -> Any:
            return lane(lane, lane), lambda context, builder, signature, x: getattr(builder, operation)(*x)

        return apply

    @intrinsic
    def larger(typing: Any, a: Any, b: Any) -> Any:
        """Lane by lane, b where b > a and a otherwise (a NaN in `b` is passed over)."""

        def generate(context: Any, builder: Any, signature: Any, x: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", x[1], x[0]), x[1], x[0])

        return lane(lane, lane), generate

    @intrinsic
    def any_above(typing: Any, size: Any, bound: Any) -> Any:
        """Whether size > bound in any lane (NaN is not above anything)."""

        def generate(context: Any, builder: Any, signature: Any, x: Any) -> Any:
            mask = builder.bitcast(builder.fcmp_ordered(">", x[0], x[1]), ir.IntType(width))
            return builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(width), 0))

        return types.boolean(lane, lane), generate

    @intrinsic
    def choose(typing: Any, size: Any, bound: Any, value: Any, otherwise: Any) -> Any:
        """Lane by lane, `value` where size > bound and `otherwise` elsewhere (also where either is NaN)."""

        def generate(context: Any, builder: Any, signature: Any, x: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", x[0], x[1]), x[2], x[3])

        return lane(lane, lane, lane, lane), generate

    @intrinsic
    def power_of_two(typing: Any, shifted: Any) -> Any:
        """2ⁿ, lane by lane, of n + INTEGER_SHIFT with a whole n from −1022 to 1023; other n give garbage."""

        def generate(context: Any, builder: Any, signature: Any, x: Any) -> Any:
            integers = ir.VectorType(_INT64, width)
            exponent = builder.shl(builder.bitcast(x[0], integers), ir.Constant(integers, [_MANTISSA_BITS] * width))
            return builder.bitcast(builder.add(exponent, ir.Constant(integers, [_BITS_OF_ONE] * width)), vector)

        return lane(lane), generate

    return {
        "load": load,
        "store": store,
        "splat": splat,
        "fma": fma,
        "mul": binary("fmul"),
        "add": binary("fadd"),
        "sub": binary("fsub"),
        "div": binary("fdiv"),
        "sqrt": sqrt,
        "absolute": absolute,
        "larger": larger,
        "choose": choose,
        "any_above": any_above,
        "power_of_two": power_of_two,
    }


for _width in WIDTHS:
    for _name, _function in _make_operations(_width).items():
        globals()[f"{_name}{_width}"] = _function


def import_line(width: int) -> str:
    """The import statement with which generated code gets the operations of one width under their short names."""
    return "from rankfall._kernels.vector import " + ", ".join(f"{name}{width} as {name}" for name in OPERATIONS)


def aligned_zeros(size: int) -> np.ndarray:
    """A float64 array on a 64-byte boundary, so that no vector straddles two cache lines."""
    raw = np.zeros(size + 8)
    shift = (-raw.ctypes.data % 64) // 8
    return raw[shift : shift + size]
