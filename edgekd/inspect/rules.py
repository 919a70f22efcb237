"""Every reason why the inspector refuses a file, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekd.errors import DamagedFileError, PolicyError

#: Rule -> the sentence that the docs print. A refusal names its rule, so names stay as they are.
RULES: Mapping[str, str] = {
    # every file
    "irregular-file": "What is named is a plain file: no device, pipe or socket.",
    "unknown-format": "Ending and content belong to a format that EdgeKD reads.",
    "content-mismatch": "The content is what the ending says.",
    "file-size": "The file is within the size limit.",
    "malformed": "The file follows its format's grammar from its first byte.",
    "truncated": "Everything that the file says it holds is there.",
    "trailing-bytes": "Nothing follows the end of what the format describes.",
    "name-text": "Names are UTF-8 that prints, and not longer than the limit.",
    "nesting": "Nothing nests deeper than the limit.",
    # tensors, wherever they are
    "tensors": "There are no more tensors than the limit.",
    "tensor-type": "The element type is one that the format defines.",
    "tensor-shape": "No dimension is negative, and there are no more dimensions than the limit.",
    "tensor-data": "A tensor's data is as long as its shape and type say.",
    "initializer-bytes": "All tensors together are within the size limit.",
    # ONNX
    "fields": "There are no more protobuf fields than the limit.",
    "nodes": "There are no more nodes than the limit, those of subgraphs and functions included.",
    "attributes": "There are no more attributes than the limit.",
    "opset-domain": "Every operator comes from a domain that EdgeKD knows, or from a function of the model itself.",
    "opset-version": "Every domain in use is imported once, in a version that exists.",
    "function-recursion": "No function of the model calls itself, not even by way of others.",
    "function-duplicate": "Every function of the model is defined once.",
    "external-data-location": "External data names a file inside the model's own folder: no absolute path, no `..`.",
    "external-data-link": "Neither an external data file nor a folder on the way to it is a symbolic link.",
    "external-data-hard-link": "An external data file has one name only (link count 1).",
    "external-data-files": "External data is in no more files than the limit.",
    "external-data-keys": "External data has one location, offset and length, each a whole number where it counts.",
    "external-data-range": "Offset and length of external data lie within its file.",
    # safetensors
    "header-length": "The safetensors header lies within the file and the limit, which is below the format's own 100 MB.",
    "header-json": "The safetensors header is one JSON object without a key twice.",
    "header-entry": "Every entry of the safetensors header has dtype, shape and data_offsets, and nothing else.",
    "header-metadata": "`__metadata__` of a safetensors file maps text to text.",
    "data-offsets": "The tensors of a safetensors file cover its data without holes or overlaps.",
    # containers
    "archive-entries": "An archive has no more members than the limit.",
    "archive-ratio": "No member of an archive unpacks to more than 100 times its packed size.",
    "archive-size": "An archive unpacks to no more than the limit.",
    "archive-path": "Members of an archive stay inside it: no absolute path, no `..`.",
    "archive-link": "An archive holds no links.",
    "archive-duplicate": "No two members of an archive have one name.",
    "archive-encrypted": "No member of an archive is encrypted.",
    "archive-overlap": "No two members of an archive share bytes.",
    "archive-header": "An archive says the same of its members everywhere: directory, local headers and end record.",
    "archive-method": "Members of an archive are stored or deflated.",
    # what can run code
    "pickle": "Nothing is unpickled: a pickle can run code.",
    "pickled-array": "No NumPy array holds Python objects, which are pickles.",
    "engine-trust": "A TensorRT plan is native code: it comes from a trusted bundle, or its SHA-256 is given.",
    # other formats
    "line-length": "No line of a `.csv` or `.jsonl` file is longer than the limit.",
    "text-bytes": "A text file is UTF-8 and holds no NUL byte.",
    "json-keys": "No object of a `.jsonl` file has a key twice.",
    "xml-entities": "An OpenVINO `.xml` file declares no document type and no entities.",
}


#: What an accident does to a file, too: a mistake of the input, exit 2, where every other rule is safety's, exit 5.
DAMAGE = frozenset({"malformed", "truncated", "content-mismatch", "unknown-format"})


Refusal = PolicyError | DamagedFileError


def refuse(rule: str, path: Path, what: str, fix: str = "do not use this file") -> Refusal:
    """The refusal of a file, to be raised: :class:`DamagedFileError` where the rule is one of :data:`DAMAGE`.

    Args:
        rule: a key of :data:`RULES`.
        path: the file.
        what: what is wrong, with the value and what was expected.
        fix: what to do.

    >>> str(refuse("nesting", Path("a.onnx"), "graphs nest 33 deep, at most 32 do", "simplify the model"))
    'a.onnx: graphs nest 33 deep, at most 32 do (rule nesting); simplify the model'
    """
    if rule not in RULES:
        raise KeyError(rule)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in f"{path}: {what}")
    kind = DamagedFileError if rule in DAMAGE else PolicyError
    return kind(f"{text} (rule {rule})", fix, rule)
