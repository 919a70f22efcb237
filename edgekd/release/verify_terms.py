"""Whose knowledge is in it: obligations met, records not expired, waivers signed. Standard library only.

The rules of :mod:`edgekd.provenance.rules` judge again, from what the bundle states, as of the day of its evidence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError, InputError
from edgekd.provenance.declared import Declaration, parse_declaration
from edgekd.provenance.obligations import Obligation
from edgekd.provenance.rules import Assessment, Finding, assess
from edgekd.release.paths import portable
from edgekd.release.verify_manifest import is_newer, newer
from edgekd.release.verify_problem import Problem
from edgekd.release.verify_signature import SIGNATURE_FILE

PROVENANCE_FILE = "provenance.json"
RECIPE_FILE = "recipe.json"
PROVENANCE_SCHEMA = "edgekd.provenance/1"

#: Obligations whose words must stand in the files that meet them.
_IN_WORDS = ("name-prefix", "display-text", "notice-file", "pass-on-terms", "state-changes")
#: Where readers look: each kind's own place is among the files that meet it.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "name-prefix": ("MODEL_CARD.md",),
    "display-text": ("MODEL_CARD.md", "NOTICES.md"),
    "notice-file": ("notices/",),
    "licence-text": ("notices/",),
    "pass-on-terms": ("NOTICES.md",),
    "state-changes": ("MODEL_CARD.md",),
}
_MAY_MEET = ("MODEL_CARD.md", "NOTICES.md", "notices/")
#: Findings that a later day alone can bring.
_BY_TIME = {"record-stale": "bundle-record"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    max_age_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What ``provenance.json`` states.

    Attributes:
        collected: the day that ages and expiries are counted to.
        document: the whole file.
    """

    declaration: Declaration
    records: tuple[Mapping[str, Any], ...]
    collected: date
    max_age_days: int
    document: Mapping[str, Any]

    def assess(self, day: date) -> Assessment:
        """The rules' answer as of a day.

        Raises:
            EvidenceError: a record that is not whole.
        """
        stored_on = self.collected if self.document.get("given_by") == "run" else None
        policy = _Policy(max_age_days=self.max_age_days)
        return assess(self.declaration, self.records, as_of=day, policy=policy, stored_on=stored_on)

    def captured(self) -> list[tuple[str, date]]:
        """Id and day of each record that states one."""
        found = []
        for record in self.records:
            try:
                found.append((str(record.get("id")), date.fromisoformat(str(record["captured"]))))
            except (KeyError, ValueError):
                continue
        return found


def read_terms(bundle: Path, raw: bytes) -> tuple[Terms | None, list[Problem]]:
    """Read ``provenance.json``.

    Raises:
        EvidenceError: a newer version wrote it.
    """
    try:
        value = json.loads(raw)
        schema = value.get("schema")
        if is_newer(schema, PROVENANCE_SCHEMA):
            raise newer(bundle, "provenance", schema, PROVENANCE_SCHEMA)
        if schema != PROVENANCE_SCHEMA:
            return None, [_problem(f"has schema {schema!r}, expected {PROVENANCE_SCHEMA!r}")]
        records, age = value["records"], value["max_age_days"]
        if not isinstance(records, list) or isinstance(age, bool) or not isinstance(age, int):
            return None, [_problem("is not whole: records or max_age_days")]
        terms = Terms(
            declaration=parse_declaration(value["declared"], PROVENANCE_FILE),
            records=tuple(records), collected=date.fromisoformat(value["as_of"]), max_age_days=age, document=value,
        )  # fmt: skip
        terms.assess(terms.collected)
    except EvidenceError:
        if is_newer(_schema_of(raw), PROVENANCE_SCHEMA):
            raise
        return None, [_problem("holds a terms record that is not whole")]
    except InputError as e:
        return None, [_problem(f"does not declare what it should ({e.what})")]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        return None, [_problem(f"is not whole ({type(e).__name__})")]
    return terms, []


def _schema_of(raw: bytes) -> object:
    try:
        return json.loads(raw).get("schema")
    except (ValueError, AttributeError, RecursionError):
        return None


def _problem(text: str, rule: str = "bundle-provenance") -> Problem:
    return Problem(PROVENANCE_FILE, f"{PROVENANCE_FILE} {text}", rule)


def check_terms(
    terms: Terms,
    *,
    name: str,
    run: Mapping[str, Any],
    verdict: Mapping[str, Any],
    recipe: object,
    read: Callable[[str], bytes | None],
    signed: bool,
    as_of: date | None,
) -> list[Problem]:
    """Everything that provenance asks of a bundle.

    Args:
        name: of the release.
        run, verdict, recipe: ``run.json``, ``verdict.json``, and ``recipe.json`` or None.
        read: a file of the bundle by its path; None where it is not there.
        signed: whether there is a ``model.sig``.
        as_of: a day to judge by instead of that of the evidence.
    """
    problems = _same_story(terms, run, verdict, recipe)
    assessment = terms.assess(terms.collected)
    problems += [_refusal(f, terms.collected) for f in assessment.refusals]
    if as_of is not None and as_of != terms.collected:
        known = {(f.rule, f.subject, f.record) for f in assessment.refusals}
        later = terms.assess(as_of).refusals
        problems += [_refusal(f, as_of) for f in later if (f.rule, f.subject, f.record) not in known]
    if assessment.waived and not signed:
        waiver = assessment.waived[0].waived_by
        who = waiver.by if waiver else ""
        problems.append(
            _problem(
                f"waives {assessment.waived[0].rule} by {who}, and there is no {SIGNATURE_FILE}",
                "bundle-waiver",
            )
        )
    return problems + _check_obligations(terms, assessment, name, read)


def _refusal(finding: Finding, day: date) -> Problem:
    what = f" for {finding.subject}" if finding.subject else ""
    return _problem(
        f"does not allow it as of {day}: {finding.rule}{what} ({finding.sentence})",
        _BY_TIME.get(finding.rule, "bundle-provenance"),
    )


def later_expiry(terms: Terms, today: date) -> list[str]:
    """What has expired since the evidence was collected, a sentence each: warnings."""
    said = []
    for record, captured in terms.captured():
        age, then = (today - captured).days, (terms.collected - captured).days
        if age > terms.max_age_days >= then:
            said.append(
                f"{PROVENANCE_FILE}: the terms record {record} is {age} days old today (limit "
                f"{terms.max_age_days}), it was {then} when the evidence was collected"
            )
    for waiver in terms.declaration.waivers:
        if terms.collected <= waiver.expires < today:
            said.append(
                f"{PROVENANCE_FILE}: the waiver of {waiver.rule} by {waiver.by} expired on {waiver.expires}"
            )
    return said


def not_yet(terms: Terms, today: date) -> list[str]:
    """Days that have not come, by a clock that was wrong or a hand: warnings. One day more, as it is tomorrow elsewhere."""
    said = [
        ("the evidence", terms.collected),
        *((f"the terms record {r}", day) for r, day in terms.captured()),
    ]
    return [
        f"{PROVENANCE_FILE}: {what} is of {day}, which is not yet"
        for what, day in said
        if day > today + timedelta(days=1)
    ]


def _same_story(
    terms: Terms, run: Mapping[str, Any], verdict: Mapping[str, Any], recipe: object
) -> list[Problem]:
    """The document must be of this run and of its policy."""
    problems = []
    if not str(run.get("collected_at", "")).startswith(terms.collected.isoformat()):
        problems.append(
            _problem(f"is as of {terms.collected}, run.json was collected at {run.get('collected_at')}")
        )
    stored = run.get("provenance")
    stored = stored if isinstance(stored, Mapping) and stored.get("declared") is not None else None
    given = "release" if stored is None else "run"
    if terms.document.get("given_by") != given:
        said = terms.document.get("given_by")
        problems.append(_problem(f"is given by {said!r}, and by run.json it is by the {given}"))
    for key in ("declared", "records", "terms") if stored is not None else ():
        if portable((stored or {}).get(key)) != portable(terms.document.get(key)):
            problems.append(_problem(f"has other {key} than run.json"))
    block = recipe.get("provenance") if isinstance(recipe, Mapping) else None
    if block is not None and _without_texts(block) != _without_texts(terms.document.get("declared")):
        problems.append(_problem(f"declares otherwise than {RECIPE_FILE}"))
    policy = verdict.get("policy")
    gate = policy.get("provenance") if isinstance(policy, Mapping) else None
    if isinstance(gate, Mapping) and gate.get("max_age_days", terms.max_age_days) != terms.max_age_days:
        problems.append(
            _problem(f"allows records of {terms.max_age_days} days, the policy {gate['max_age_days']}")
        )
    return problems


def _without_texts(block: object) -> object:
    """A declaration in its one form, without licence texts, which a recipe names and does not hold; None: it is none."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in ("licence_file", "notice_file")}
        return [bare(v) for v in value] if isinstance(value, list) else value

    try:
        return portable(parse_declaration(bare(block), RECIPE_FILE).to_json())
    except (InputError, TypeError, AttributeError):
        return None


def _check_obligations(
    terms: Terms, assessment: Assessment, release: str, read: Callable[[str], bytes | None]
) -> list[Problem]:
    """Every obligation that the rules ask is listed, and met where it says."""
    listed = terms.document.get("obligations")
    if not isinstance(listed, list) or not all(isinstance(o, Mapping) for o in listed):
        return [_problem("lists no obligations", "bundle-obligation")]
    problems = []
    licences: dict[str, set[str]] = {}
    for subject in (s for top in terms.declaration.subjects for s in top.walk()):
        licences.setdefault(subject.name, set()).update(t.sha256 for t in subject.texts_of("licence"))
    asked = {o.id: o for o in assessment.obligations}
    there = {str(o.get("id")): o for o in listed}
    if len(there) != len(listed):
        problems.append(_problem("lists an obligation twice", "bundle-obligation"))
    for name in sorted(asked.keys() - there.keys()):
        problems.append(_problem(f"lacks the obligation {name}: {asked[name].sentence}", "bundle-obligation"))
    for name, entry in sorted(there.items()):
        wanted = asked.get(name)
        if wanted is None or any(entry.get(k) != v for k, v in wanted.to_json().items()):
            problems.append(
                _problem(f"lists the obligation {name}, which its records do not ask so", "bundle-obligation")
            )
            continue
        if wanted.kind == "name-prefix" and not release.startswith(wanted.value):
            problems.append(
                _problem(
                    f"asks a name that begins {wanted.value!r}, this is {release!r}", "bundle-obligation"
                )
            )
        problems += _check_met(wanted, entry.get("met_in"), licences.get(wanted.subject, set()), read)
    return problems + _check_each_text(asked.values(), there, read)


def _check_each_text(
    asked: Iterable[Obligation], there: Mapping[str, Mapping[str, Any]], read: Callable[[str], bytes | None]
) -> list[Problem]:
    """One text cannot be two licences: those of one subject are met in as many different texts."""
    texts: dict[str, list[set[str]]] = {}
    for obligation in (o for o in asked if o.kind == "licence-text"):
        met_in = there.get(obligation.id, {}).get("met_in")
        paths = map(str, met_in) if isinstance(met_in, list) else ()
        found = {hashlib.sha256(read(p) or b"").hexdigest() for p in paths}
        texts.setdefault(obligation.subject, []).append(found)
    return [
        _problem(
            f"owes {len(found)} licence texts for {subject}, and {len(set().union(*found))} are there",
            "bundle-obligation",
        )
        for subject, found in texts.items()
        if len(set().union(*found)) < len(found)
    ]


def _check_met(
    asked: Obligation, met_in: object, licences: set[str], read: Callable[[str], bytes | None]
) -> list[Problem]:
    name, kind, value = asked.id, asked.kind, asked.value
    if not isinstance(met_in, list) or not met_in:
        return [_problem(f"says of the obligation {name} nowhere how it is met", "bundle-obligation")]
    problems = []
    paths = list(map(str, met_in))
    for place in _PLACES[kind]:
        if not any(path == place or (place.endswith("/") and path.startswith(place)) for path in paths):
            text = f"{PROVENANCE_FILE} meets the obligation {name} in {', '.join(paths)[:200]}, and not in {place}"
            problems.append(Problem(PROVENANCE_FILE, text, "bundle-obligation"))
    for path in paths:
        data = read(path)
        if not path.startswith(_MAY_MEET) and not (kind == "name-prefix" and path == "run.json"):
            text = f"{path} is no place to meet the obligation {name}"
        elif data is None:
            text = f"{path} is missing, which meets the obligation {name}"
        elif not data.strip():
            text = f"{path} is empty, and should meet the obligation {name}"
        elif kind in _IN_WORDS and _words(value) not in _words(data.decode("utf-8", "replace")):
            text = f"{path} does not hold the words that the obligation {name} asks: {value[:80]}"
        elif kind == "licence-text" and hashlib.sha256(data).hexdigest() not in licences:
            text = f"{path} is not the licence text that was declared, as the obligation {name} asks"
        else:
            continue
        problems.append(Problem(path, text, "bundle-obligation"))
    return problems


def _words(text: str) -> str:
    """A text without its line breaks and quoting marks: prose is wrapped, words stay."""
    return " ".join(text.replace("\n> ", "\n").split())
