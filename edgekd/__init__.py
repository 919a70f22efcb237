"""EdgeKD decides whether a distilled student model may ship."""

__version__ = "0.1.0"
