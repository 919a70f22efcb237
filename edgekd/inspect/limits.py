"""How large a file from outside may be, in every way that costs time or memory to look at."""

from __future__ import annotations

from dataclasses import dataclass, replace

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps of the inspector. What is above one is refused by the rule of the same name.

    Attributes:
        file_bytes: of one file.
        protobuf_bytes: of one ``.onnx`` file: protobuf reads no message of 2 GiB or more.
        fields: protobuf fields that are looked at; of numbers that are not packed 32 count as one, a function as 60.
        nodes: ONNX nodes, those of subgraphs and functions included.
        attributes: ONNX attributes, of all nodes together.
        tensors: tensors of one file.
        dimensions: of one tensor.
        nesting: graphs in graphs, functions that call functions, JSON in JSON.
        initializer_bytes: of all tensors together, wherever they lie.
        name_bytes: of one name of a tensor, node, file or member.
        name_total_bytes: of all names together.
        hard_links: names that an external data file may have; EdgeKD's own stores share files by hard links.
        external_files: that one model keeps its data in.
        names: names that the facts of one file list (nothing is refused by it).
        safetensors_header_bytes: the format allows 100 MB, and 32 MiB name 300,000 tensors.
        zip_members: entries of one archive.
        zip_ratio: unpacked by packed bytes of one member, and of the archive.
        zip_bytes: unpacked, of one archive.
        xml_bytes: of one OpenVINO ``.xml`` file.
        text_line_bytes: of one line of a ``.csv`` or ``.jsonl`` file.
    """

    file_bytes: int = 64 * _GIB
    protobuf_bytes: int = 2 * _GIB - 1
    fields: int = 600_000
    nodes: int = 50_000
    attributes: int = 200_000
    tensors: int = 50_000
    dimensions: int = 32
    nesting: int = 32
    initializer_bytes: int = 64 * _GIB
    name_bytes: int = 4 * _KIB
    name_total_bytes: int = 64 * _MIB
    hard_links: int = 1
    external_files: int = 4096
    names: int = 1000
    safetensors_header_bytes: int = 32 * _MIB
    zip_members: int = 10_000
    zip_ratio: int = 100
    zip_bytes: int = 64 * _GIB
    xml_bytes: int = 256 * _MIB
    text_line_bytes: int = 16 * _MIB


LIMITS = Limits()
#: For files of EdgeKD's own stores, which share them by hard links: a board's model may be one.
STORED = replace(LIMITS, hard_links=1 << 62)
#: Samples of measurements, which EdgeKD compresses: a column of one value shrinks as far as deflate goes (zlib, 1032:1).
SAMPLES = replace(LIMITS, zip_ratio=1100, zip_bytes=256 * _MIB)
