"""A run folder in the making: artifacts and evidence are copied in, the index and the verdict are written last."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.evidence import Evaluation, Measurement, save_evaluation, save_measurement
from edgekd.evidence.placement import OpPlacement, save_placement
from edgekd.evidence.run import RUN_FILE
from edgekd.evidence.speedup import Speedup, save_speedup
from edgekd.model import Model


def slug(label: str) -> str:
    """A label as a file name.

    >>> slug("student int8 (select)")
    'student-int8-select'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.") or "unnamed"


def check_out(out: Path) -> None:
    """Refuse to replace a folder that no run made.

    Raises:
        UsageError: ``out`` is a file, or a folder with other content.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / RUN_FILE).is_file()):
        raise UsageError(f"--out {out} holds something that is not a run", "choose a new or empty folder")


@dataclass(frozen=True)
class RunFolder:
    """Files of a run, below ``root``, which is renamed into place when all is there."""

    root: Path
    artifacts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _evaluations: dict[tuple[str, str, str, str], str] = field(default_factory=dict)

    def _fresh(self, label: str) -> str:
        name, k = slug(label), 2
        while name in self._names:
            name, k = f"{slug(label)}-{k}", k + 1
        self._names.add(name)
        return name

    def add_artifact(self, label: str, artifact: Artifact) -> str:
        """Copy an artifact in (once per digest) and return its digest."""
        if artifact.digest not in self.artifacts:
            folder = f"artifacts/{self._fresh(label)}"
            target = self.root / folder
            target.mkdir(parents=True)
            artifact.copy_to(target)
            self.artifacts[artifact.digest] = {
                "name": label,
                "folder": folder,
                "dtype": artifact.dtype,
                "format": artifact.format,
                "size_bytes": artifact.size_bytes,
            }
        return artifact.digest

    def add_model(self, label: str, model: Model) -> None:
        """Copy a trained model in."""
        shutil.copytree(
            model.folder,
            self.root / "models" / self._fresh(label),
            ignore=shutil.ignore_patterns("stage.json"),
        )

    def add_evaluation(self, evaluation: Evaluation) -> str:
        """Write an evaluation (once) and return its path relative to the run."""
        key = (evaluation.name, evaluation.split, evaluation.artifact, evaluation.target)
        if key in self._evaluations:
            return self._evaluations[key]
        path = f"evidence/eval-{self._fresh(f'{evaluation.name} {evaluation.split}')}.json"
        save_evaluation(evaluation, self.root / path)
        self._evaluations[key] = path
        return path

    def add_measurement(self, label: str, measurement: Measurement) -> str:
        """Write a measurement and return its path relative to the run."""
        path = f"evidence/measure-{self._fresh(label)}.json"
        save_measurement(measurement, self.root / path)
        return path

    def add_placement(self, label: str, placement: OpPlacement) -> str:
        """Write what ran where and return its path relative to the run."""
        path = f"evidence/placement-{self._fresh(label)}.json"
        save_placement(placement, self.root / path)
        return path

    def add_speedup(self, label: str, found: Speedup) -> str:
        """Write whether an artifact is faster than its float twin and return its path relative to the run."""
        path = f"evidence/{self._fresh(f'speedup {label}')}.json"
        save_speedup(found, self.root / path)
        return path
