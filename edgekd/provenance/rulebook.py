"""The rules by name: what each finds, and whether a person may waive it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["reject", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the provenance gate.

    Attributes:
        outcome: ``reject`` stops a release until a person decides; a ``note`` is only said.
        finds: what makes it fire, in a sentence.
        todo: what to do about it.
    """

    outcome: Outcome
    finds: str
    todo: str

    @property
    def waivable(self) -> bool:
        """Whether there is anything to waive."""
        return self.outcome == "reject"

    @property
    def fix(self) -> str:
        """What to do, as it stands within a sentence of an error: no capital, no full stop."""
        return self.todo[0].lower() + self.todo[1:].removesuffix(".")


def _reject(finds: str, todo: str) -> Rule:
    return Rule(outcome="reject", finds=finds, todo=todo)


def _note(finds: str, todo: str = "Nothing.") -> Rule:
    return Rule(outcome="note", finds=finds, todo=todo)


#: Rule -> what it is, those that reject first, in the order in which a reader should look.
RULES: Mapping[str, Rule] = {
    "teacher-undeclared": _reject(
        "No teacher is declared.",
        "Declare `teacher: {name, licence, source, access}`; `licence: own` where you made it yourselves.",
    ),
    "data-undeclared": _reject(
        "No data is declared.",
        "Declare `data: {name, licence, source}`; `licence: own` where you made it yourselves.",
    ),
    "teacher-licence-unknown": _reject(
        "A teacher is declared without a licence, or its makers state none.",
        "Find out under what terms it was given, or have a person waive the rule.",
    ),
    "data-licence-unknown": _reject(
        "Data is declared without a licence, or its makers state none.",
        "Find out under what terms it was given, or have a person waive the rule.",
    ),
    "api-terms-missing": _reject(
        "A teacher was asked through an API, and no terms of that API are declared; a licence is none.",
        "Declare the API's terms, for example `terms: [openai-services]`; your own model, run by you, is `outputs-of-weights`.",
    ),
    "no-record": _reject(
        "The terms table has no record of a declared licence or terms, or none that speaks of this use.",
        "Check the spelling; else read the terms, and have a person waive the rule.",
    ),
    "record-unclear": _reject(
        "The terms do not say clearly whether another model may be trained.",
        "Ask their author or a lawyer, and have a person waive the rule.",
    ),
    "record-stale": _reject(
        "The record was older than `gates.provenance.max_age_days` on the day that counts: that of the run, or of `--as-of`.",
        "Update EdgeKD for a newer table; or read the terms again and have a person waive the rule.",
    ),
    "record-later": _reject(
        "The record is of a later day than the run that it was stored with: a clock was wrong, or a day was edited.",
        "Set the clock of the machine that collects, and collect the run again.",
    ),
    "training-forbidden": _reject(
        "The terms forbid training another model.",
        "Take another teacher or other data, or get a permission in writing and have a person waive the rule.",
    ),
    "training-forbidden-competing": _reject(
        "The terms forbid training a model that competes, and it was not declared that this one does not.",
        "Where it does not compete, say so: `competing: false`; it is then a stated claim in the report.",
    ),
    "non-commercial": _reject(
        "The terms allow non-commercial use only, and the student is for commercial use.",
        "Where it is research, say so: `use: research`; else take another teacher or other data.",
    ),
    "own-work": _note("Work made in-house: nobody else's terms apply. A claim of the declaration."),
    "permitted": _note("The terms allow training another model."),
    "permitted-with-conditions": _note(
        "The terms allow training another model under conditions.",
        "Meet them: those that a bundle can show are obligations.",
    ),
    "not-competing": _note("The terms forbid a competing model, and the declaration says that this is none."),
    "research-only": _note(
        "The terms allow non-commercial use only, and the student is declared to be for research.",
        "Keep it out of products.",
    ),
    "terms-by-name": _note(
        "A name tells that further terms apply, which were not declared; they were added.",
        "Declare them, with `terms` or `derived_from`.",
    ),
    "access-unstated": _note(
        "It was not said how the teacher's knowledge was reached; `weights` was taken.", "Declare `access`."
    ),
    "grade-unverified": _note(
        "Nobody read the terms themselves for the record that was used.", "Read them at the source."
    ),
    "waiver-expired": _note(
        "A waiver had expired on the day that counts; it was not counted.", "Renew or remove it."
    ),
    "waiver-unused": _note("A waiver is for a rule that found nothing.", "Remove it."),
}


def rules_table() -> str:
    """The rules as a Markdown table, for the docs."""
    rows = [f"| `{name}` | {rule.outcome} | {rule.finds} | {rule.todo} |" for name, rule in RULES.items()]
    return "\n".join(["| rule | outcome | finds | what to do |", "|---|---|---|---|", *rows]) + "\n"
