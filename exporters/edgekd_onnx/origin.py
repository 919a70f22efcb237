"""Which torch module a node of an exported graph came from: the one thing that is kept of torch's own notes.

torch writes the scopes that a node was traced in (``pkg.torch.onnx.name_scopes``: module paths, then the operator) beside
stack traces and source paths of the machine. The innermost module's path stays, under :data:`MODULE_KEY`.
"""

from __future__ import annotations

import ast
from typing import Any

MODULE_KEY = "edgekd.module"
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def keep_module(node: Any) -> None:
    """Replace a node's metadata, in place, by the path of the torch module that it came from."""
    scopes = next((p.value for p in node.metadata_props if p.key in (_SCOPES_KEY, MODULE_KEY)), "")
    already = any(p.key == MODULE_KEY for p in node.metadata_props)
    node.ClearField("metadata_props")
    module = scopes if already else _innermost(scopes)
    if module:
        node.metadata_props.add(key=MODULE_KEY, value=module)


def _innermost(scopes: str) -> str:
    """The last scope but the operator's.

    >>> _innermost("['', 'layer1', 'layer1.0.conv', 'conv2d']")
    'layer1.0.conv'
    """
    try:
        found = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    fits = isinstance(found, list) and len(found) > 1 and all(isinstance(s, str) for s in found)
    return str(found[-2]) if fits else ""


def module_of(node: Any) -> str:
    """The torch module that a node came from; empty where the file does not say."""
    return next((str(p.value) for p in node.metadata_props if p.key == MODULE_KEY), "")
