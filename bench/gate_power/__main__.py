"""``python bench/gate_power``: see docs/gate_power.md."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_power.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
