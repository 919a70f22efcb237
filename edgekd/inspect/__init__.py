"""What is in a model file, found without the library that would run it; and refusal of what no library should open.

Every file from outside passes here first (``edgekd inspect FILE`` prints what was found). Only the standard library
and numpy are used, the file is mapped and not read whole, and every loop is bounded by :class:`Limits`.
"""

from __future__ import annotations

from edgekd.inspect.inspection import Inspection, inspect_file, inspect_folder
from edgekd.inspect.limits import LIMITS, Limits
from edgekd.inspect.rules import RULES, refuse

__all__ = ["LIMITS", "RULES", "Inspection", "Limits", "inspect_file", "inspect_folder", "refuse"]
