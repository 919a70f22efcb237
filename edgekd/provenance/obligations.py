"""What a licence asks of those who pass the student on: followed into the bundle, and checked there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgekd.errors import EvidenceError

ObligationKind = Literal[
    "name-prefix", "display-text", "notice-file", "licence-text", "pass-on-terms", "state-changes"
]

#: What each kind asks, and how a bundle meets it; ``{value}`` is the obligation's.
KINDS: Mapping[str, str] = {
    "name-prefix": "the released model's name begins with {value}",
    "display-text": "the text {value} is shown with the model",
    "notice-file": "this notice is among the bundle's notices: {value}",
    "licence-text": "the text of {value} is in the bundle",
    "pass-on-terms": "those who receive the model are bound by: {value}",
    "state-changes": "the model card says what was changed: {value}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """One thing that a licence asks of the bundle.

    Attributes:
        id: ``<role>/<record>/<kind>``, unique within an assessment.
        kind: which of :data:`KINDS`.
        value: the prefix, the text to show, the notice's words, the licence's id, or the terms to pass on.
        subject: name of the teacher or data set that it comes from.
        record: id of the terms record.
    """

    id: str
    kind: ObligationKind
    value: str
    subject: str
    record: str

    @property
    def sentence(self) -> str:
        """What is asked, in words."""
        return KINDS[self.kind].format(value=self.value)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "value": self.value,
            "subject": self.subject,
            "record": self.record,
        }


def obligation_from_json(value: Mapping[str, Any]) -> Obligation:
    """Read one back.

    Raises:
        EvidenceError: a key is missing or the kind unknown.
    """
    try:
        if value["kind"] not in get_args(ObligationKind):
            raise EvidenceError(
                f"obligation of the unknown kind {value['kind']!r}", "read it with a newer EdgeKD"
            )
        return Obligation(
            id=str(value["id"]), kind=value["kind"], value=str(value["value"]), subject=str(value["subject"]),
            record=str(value["record"]),
        )  # fmt: skip
    except (KeyError, TypeError) as e:
        raise EvidenceError(f"an obligation is not whole ({e!r})", "release again") from e
