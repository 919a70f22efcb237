"""``python -m edgekd.provenance``: the table of rules, as docs/provenance.md has it."""

from __future__ import annotations

import sys

from edgekd.provenance.rulebook import rules_table

if __name__ == "__main__":
    sys.stdout.write(rules_table())
