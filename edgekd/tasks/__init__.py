"""Tasks: what makes a teacher's and a student's answers comparable."""

from edgekd.tasks.build import TaskSpec, build_task
from edgekd.tasks.task import ModelIO, Prediction, Scores, Task, check_scores, parse_output

__all__ = [
    "ModelIO",
    "Prediction",
    "Scores",
    "Task",
    "TaskSpec",
    "build_task",
    "check_scores",
    "parse_output",
]
