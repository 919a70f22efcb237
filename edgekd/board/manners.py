"""Numbers that both ends of a link keep to."""

from __future__ import annotations

#: The host says something this often, and the board answers: both know then that the other is there.
PING_S = 10.0
#: Who hears nothing for so long takes the other for lost.
SILENT_S = 60.0
#: Files travel in parts of this size: no end holds more of one in memory.
PART_BYTES = 1 << 22
