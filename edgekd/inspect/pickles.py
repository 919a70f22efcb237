"""Pickles, and the zip files that torch makes of them: read as a list of instructions, never carried out.

What a pickle would import is known without running it: its stack is followed with one value per text, and nothing for
everything else (instructions and what they do to the stack: Python's ``pickletools.opcodes``).
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

from edgekd.inspect.archive import members, unpack_start
from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import Refusal, refuse

#: Instructions looked at: a state dict of ten thousand tensors has 300 000.
_INSTRUCTIONS = 600_000
#: Bytes of one argument, and of the pickle within an archive: names and sizes, the numbers lie elsewhere.
_ARGUMENT_BYTES, _PICKLE_BYTES = 16 << 20, 64 << 20
#: First of the five pickles of torch's old format (torch.serialization.MAGIC_NUMBER); bare numbers follow them.
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PICKLES = 5
#: What a state dict needs to be put together again (torch/_weights_only_unpickler.py allows these and more).
_PLAIN: Final = frozenset(
    {
        "collections.OrderedDict", "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2", "torch.Size", "torch.device", "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout", "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
        *(f"torch.{t}Storage" for t in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")),
        *(f"torch.{t}" for t in ("bfloat16", "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")),
    }
)  # fmt: skip
_TEXTS = ("UNICODE", "STRING")
_MARK: Final = object()


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """What a pickle would import. One that needs more than tensors do is refused, by name of what it asks for."""
    if bytes(data[:4]) in (b"PK\x03\x04", b"PK\x05\x06"):
        facts = {"container": "zip", **_inspect_zip(path, data, limits)}
    else:
        names, torch_file = _scan(path, _Reader(data))
        facts = {"container": "torch (before 1.6)" if torch_file else "pickle", "globals": sorted(names)}
    beyond = [n for n in facts["globals"] if n not in _PLAIN]
    if beyond:
        named = ", ".join(beyond[:5]) + (" …" if len(beyond) > 5 else "")
        raise refuse(
            "pickle", path, f"unpickling it would import {named}", "save the weights alone, as .safetensors"
        )
    return facts


def _inspect_zip(path: Path, data: memoryview, limits: Limits) -> dict[str, Any]:
    found = members(path, data, limits)
    if any("/code/" in f"/{m.name}" or m.name.endswith("constants.pkl") for m in found):
        raise refuse(
            "pickle", path, "it holds a TorchScript program", "save the weights alone, as .safetensors"
        )
    pickles = [m for m in found if m.name.endswith(".pkl")]
    if len(pickles) != 1 or pickles[0].name.rpartition("/")[2] != "data.pkl":
        raise refuse(
            "content-mismatch", path, f"it is an archive of {len(found)} files with {len(pickles)} pickles, torch writes one data.pkl",
        )  # fmt: skip
    if pickles[0].size_bytes > _PICKLE_BYTES:
        raise refuse(
            "pickle", path, f"its pickle has {pickles[0].size_bytes} bytes, at most {_PICKLE_BYTES} are read"
        )
    raw = unpack_start(path, data, pickles[0], _PICKLE_BYTES)
    names, _ = _scan(path, _Reader(memoryview(raw)))
    tensors = [m for m in found if "/data/" in m.name]
    return {
        "globals": sorted(names),
        "storages": len(tensors),
        "storage_bytes": sum(m.size_bytes for m in tensors),
    }


class _Reader(io.RawIOBase):
    """Mapped bytes as a file that gives away no large piece at once."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _ARGUMENT_BYTES:
            raise ValueError(f"an argument of {size} bytes")
        piece = bytes(self._data[self._at : self._at + size])
        self._at += len(piece)
        return piece

    def readline(self, size: int | None = -1, /) -> bytes:
        piece = bytes(self._data[self._at : self._at + (1 << 16)])
        line = piece[: piece.find(b"\n") + 1]
        self._at += len(line)
        return line

    def tell(self) -> int:
        return self._at

    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at


def _scan(path: Path, reader: _Reader) -> tuple[set[str], bool]:
    """Names that the pickles of a file would import, and whether it is a file of torch's old format."""
    names: set[str] = set()
    done, torch_file, budget = 0, False, _INSTRUCTIONS
    while reader.left() and not (torch_file and done == _TORCH_PICKLES):
        program = _Program(path)
        try:
            first = True
            for opcode, argument, _ in pickletools.genops(cast(IO[bytes], reader)):
                budget -= 1
                if budget < 0:
                    raise refuse("pickle", path, f"it has more than {_INSTRUCTIONS} instructions")
                program.step(opcode, argument)
                if done == 0 and first and opcode.name != "PROTO":
                    torch_file, first = argument == _TORCH_MAGIC, False
        except (ValueError, OverflowError, UnicodeError, IndexError, KeyError) as e:
            raise refuse("malformed", path, f"it is no whole pickle ({e})"[:200], "copy it again") from e
        names |= program.names
        done += 1
    return names, torch_file


class _Program:
    """Follows one pickle's stack: text is kept, everything else is None."""

    def __init__(self, path: Path) -> None:
        self.names: set[str] = set()
        self._path = path
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """What one instruction does to the stack."""
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            self._import(module, attribute)
        elif name == "STACK_GLOBAL":
            self._import(*self._stack[-2:] if len(self._stack) > 1 else (None, None))
        elif name.startswith("EXT"):
            self.names.add(f"copyreg extension {argument}")
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[int(argument)])
        elif name == "DUP":
            self._stack.append(self._top())
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name == "POP":
            self._pop(1)
        else:
            self._generic(opcode, argument)

    def _generic(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        before = list(opcode.stack_before)
        if pickletools.markobject in before:
            while self._stack and self._stack[-1] is not _MARK:
                self._stack.pop()
            self._pop(1 + before.index(pickletools.markobject))
        else:
            self._pop(len(before))
        text = any(part in opcode.name for part in _TEXTS) and isinstance(argument, str)
        self._stack.extend([argument if text else None] * len(opcode.stack_after))

    def _top(self) -> object:
        if not self._stack:
            raise self._underflow()
        return self._stack[-1]

    def _pop(self, count: int) -> None:
        if count > len(self._stack):
            raise self._underflow()
        if count:
            del self._stack[-count:]

    def _underflow(self) -> Refusal:
        return refuse("malformed", self._path, "its pickle takes more from the stack than there is")

    def _import(self, module: object, attribute: object) -> None:
        known = isinstance(module, str) and isinstance(attribute, str)
        # Python 2's names are mapped by the unpickler (copyreg, `__builtin__`): shown as they stand.
        self.names.add(f"{module}.{attribute}"[:200] if known else "what it computes itself")
