"""The 8-bit types that torch multiplies in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An 8-bit type.

    Attributes:
        name: ONNX spelling; greatest: the largest magnitude used (448: OCP 8-bit floating point specification, E4M3;
            127: symmetric INT8).
        multiple: of which both sides of the second operand are.
    """

    name: str
    greatest: float
    multiple: int

    def misfit(self, inner: int, outer: int) -> str:
        """Why a product of (rows, inner) and (inner, outer) cannot be taken; empty when it can.

        >>> KINDS["int8"].misfit(12, 64)
        'its 12 inputs are no multiple of 8'
        """
        if inner % self.multiple:
            return f"its {inner} inputs are no multiple of {self.multiple}"
        if outer % self.multiple:
            return f"its {outer} outputs are no multiple of {self.multiple}"
        return ""


KINDS = {
    "float8e4m3fn": Kind(name="float8e4m3fn", greatest=448.0, multiple=16),
    "int8": Kind(name="int8", greatest=127.0, multiple=8),
}
