"""Evidence: what was seen. Knows nothing of limits."""

from edgekd.evidence.evaluation import Evaluation, load_evaluation, save_evaluation
from edgekd.evidence.measurement import Measurement, Restart, load_measurement, save_measurement
from edgekd.evidence.run import Candidate, Evidence, Run, load_run

__all__ = [
    "Candidate",
    "Evidence",
    "Run",
    "load_run",
    "Evaluation",
    "Measurement",
    "Restart",
    "load_evaluation",
    "load_measurement",
    "save_evaluation",
    "save_measurement",
]
