"""``python -m edgekd.schemas``: bring the generated schemas up to date with the recipe's models."""

from pathlib import Path

from edgekd.schemas import write_generated

if __name__ == "__main__":
    write_generated(Path(__file__).parent)
