"""The rules: what each finds, that the strictest layer wins, and that nothing unknown ever passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import EvidenceError
from edgekd.provenance.rules import RULES, Assessment, assess, parse_declaration, resolve
from edgekd.provenance.terms import TermsTable, load_terms

TABLE = load_terms()
DAY = date.fromisoformat(TABLE.captured)
OWN = {"name": "d", "licence": "own"}


@dataclass(frozen=True)
class Asked:
    max_age_days: int = 180


def judge(day: date = DAY, asked: Asked = Asked(), table: TermsTable = TABLE, **block: Any) -> Assessment:
    declaration = parse_declaration({"data": OWN, **block})
    return assess(declaration, resolve(declaration, table), as_of=day, policy=asked)


def refused(found: Assessment) -> list[str]:
    return [f.rule for f in found.refusals]


def teacher(licence: str = "MIT", name: str = "T", access: str = "weights", **more: Any) -> dict[str, Any]:
    return {"name": name, "licence": licence, "access": access, **more}


@pytest.mark.parametrize(
    ("block", "rules"),
    [
        ({"teacher": teacher("MIT")}, []),
        ({"teacher": teacher("own")}, []),
        ({"teacher": teacher("llama3.1")}, []),
        ({"teacher": teacher("llama3")}, ["training-forbidden"]),
        ({"teacher": teacher("WTFPL")}, ["no-record"]),
        ({"teacher": teacher("odc-by")}, ["no-record"]),
        ({"teacher": teacher("GPL-3.0")}, ["record-unclear"]),
        ({"teacher": teacher("")}, ["teacher-licence-unknown"]),
        ({"teacher": teacher("none-stated")}, ["teacher-licence-unknown"]),
        ({"teacher": teacher("Unknown")}, ["teacher-licence-unknown"]),
        ({"data": OWN}, ["teacher-undeclared"]),
        ({"teacher": teacher("MIT"), "data": None}, ["data-undeclared"]),
        ({"teacher": teacher("MIT"), "data": {"name": "CIFAR-10", "licence": "none-stated"}}, ["data-licence-unknown"]),
        ({"teacher": teacher("MIT"), "data": {"name": "w", "licence": "llama3.1"}}, ["no-record"]),
        ({"teacher": teacher("cc-by-nc-4.0")}, ["non-commercial"]),
        ({"teacher": teacher("cc-by-nc-4.0"), "use": "research"}, []),
        ({"teacher": teacher("MIT"), "data": {"name": "d", "licence": "CC-BY-NC-4.0"}}, ["non-commercial"]),
        ({"teacher": teacher("", access="api-outputs")}, ["api-terms-missing"]),
        ({"teacher": teacher("MIT", access="api-outputs")}, ["api-terms-missing"]),
        ({"teacher": teacher("own", access="api-outputs")}, ["api-terms-missing"]),
        ({"teacher": teacher("MIT", access="api-outputs", terms="MIT")}, ["api-terms-missing"]),
        ({"teacher": teacher("own", name="gpt-4o", access="api-outputs")}, ["api-terms-missing", "training-forbidden-competing"]),
        ({"teacher": teacher("own", derived_from={"name": "A", "licence": "own", "access": "api-outputs"})}, ["api-terms-missing"]),
        ({"teacher": teacher("own", access="api-outputs", terms="openai"), "competing": False}, []),
        ({"teacher": teacher("", access="api-outputs", terms="openai-services")}, ["training-forbidden-competing"]),
        ({"teacher": teacher("openai", access="api-outputs")}, ["training-forbidden-competing"]),
        ({"teacher": teacher("", access="api-outputs", terms="openai"), "competing": False}, []),
        ({"teacher": teacher("", access="api-outputs", terms="openai"), "competing": True}, ["training-forbidden-competing"]),
        ({"teacher": teacher("", access="api-outputs", terms="mistral-api"), "competing": False}, ["record-unclear"]),
        ({"teacher": teacher("", access="api-outputs", terms="somebody-elses-api")}, ["no-record"]),
        # the strictest layer: a host on top of a licence, an ancestor, what is brought along, what a name gives away
        ({"teacher": teacher("MIT", terms=["zai-api"])}, ["training-forbidden"]),
        ({"teacher": teacher("MIT", derived_from={"name": "L", "licence": "llama3"})}, ["training-forbidden"]),
        ({"teacher": teacher("MIT", derived_from={"name": "L"})}, ["teacher-licence-unknown"]),
        ({"teacher": teacher("", access="api-outputs", terms="anthropic"), "competing": False}, ["training-forbidden"]),
        ({"teacher": teacher("MIT", name="meta-llama/Meta-Llama-3-8B")}, ["training-forbidden"]),
        ({"teacher": teacher("own", name="meta-llama/Meta-Llama-3-8B")}, ["training-forbidden"]),
        ({"teacher": teacher("MIT", name="claude-3-5-sonnet", access="dataset"), "competing": False}, ["training-forbidden"]),
        ({"teacher": [teacher("MIT"), teacher("zai-api", name="glm")]}, ["training-forbidden"]),
        # expressions: the milder of a choice, both of a pair
        ({"teacher": teacher("MIT OR GPL-3.0")}, []),
        ({"teacher": teacher("GPL-3.0 OR MIT")}, []),
        ({"teacher": teacher("nobody-knows OR Apache 2.0")}, []),
        ({"teacher": teacher("MIT AND Apache-2.0")}, []),
        ({"teacher": teacher("MIT AND GPL-3.0")}, ["record-unclear"]),
        ({"teacher": teacher("MIT AND nobody-knows")}, ["no-record"]),
        ({"teacher": teacher("MIT AND own")}, ["no-record"]),
        ({"teacher": teacher("(MIT OR llama3) AND GPL-3.0")}, ["record-unclear"]),
        ({"teacher": teacher("CC-BY-NC-4.0 OR llama3")}, ["non-commercial"]),
        ({"teacher": teacher("GPL-3.0 OR llama3")}, ["record-unclear"]),
        ({"teacher": teacher("MIT OR")}, ["no-record"]),
        ({"teacher": teacher("(MIT")}, ["no-record"]),
        ({"teacher": teacher("((((((((((((((((((((((MIT")}, ["no-record"]),
        ({"teacher": teacher("GPL-2.0 WITH Classpath-exception-2.0")}, ["no-record"]),
    ],
)  # fmt: skip
def test_what_is_refused_and_by_which_rule(block: dict[str, Any], rules: list[str]) -> None:
    found = judge(**block)
    assert refused(found) == rules
    assert found.decision == ("reject" if rules else "pass")
    assert all(f.sentence and "\n" not in f.sentence for f in found.findings)


def test_a_finding_names_record_source_day_and_grade() -> None:
    (finding,) = judge(teacher=teacher("Llama-3", name="big")).refusals
    assert (finding.record, finding.subject) == ("llama3", "big")
    assert "licence Llama-3 of big" in finding.sentence
    assert (
        f"[verified, {TABLE.captured}: github.com/meta-llama/llama-models models/llama3/LICENSE"
        in finding.sentence
    )


def test_a_record_is_stale_on_the_day_after_its_last() -> None:
    edge = DAY + timedelta(days=180)
    assert refused(judge(edge, teacher=teacher())) == []
    found = judge(edge + timedelta(days=1), teacher=teacher())
    assert refused(found) == ["record-stale"]
    assert f"181 days before {edge + timedelta(days=1)} (limit 180)" in found.refusals[0].sentence
    assert refused(judge(edge + timedelta(days=1), Asked(max_age_days=181), teacher=teacher())) == []
    assert refused(judge(DAY + timedelta(days=9000), teacher=teacher("own"))) == []


def test_a_record_of_a_later_day_than_its_run_is_refused() -> None:
    declaration = parse_declaration({"teacher": teacher(), "data": OWN})
    records = resolve(declaration, TABLE)

    def found(stored_on: date | None) -> list[str]:
        return refused(assess(declaration, records, as_of=DAY, policy=Asked(), stored_on=stored_on))

    assert found(date(1970, 1, 1)) == found(DAY - timedelta(days=2)) == ["record-later"]
    assert found(DAY - timedelta(days=1)) == found(DAY) == found(None) == []


def test_the_choice_of_an_expression_is_named_and_its_obligations_alone_are_met() -> None:
    found = judge(teacher=teacher("GPL-3.0 OR MIT"))
    assert [o.id for o in found.obligations] == ["teacher/mit/licence-text"]
    assert any("licence MIT, of 'GPL-3.0 OR MIT', of T" in f.sentence for f in found.findings)
    both = judge(teacher=teacher("BSD-3-Clause AND MIT"))
    assert {o.record for o in both.obligations} == {"bsd-3-clause", "mit"}
    declaration = parse_declaration({"teacher": teacher("GPL-3.0 OR MIT"), "data": OWN})
    assert [r["id"] for r in resolve(declaration, TABLE)] == ["mit"], "and judged alike from what is stored"


def waiver(rule: str, **more: Any) -> dict[str, Any]:
    return {"rule": rule, "by": "Ada", "reason": "because", "expires": DAY.isoformat(), **more}


def test_a_waiver_counts_through_its_last_day_and_no_longer() -> None:
    block = {
        "teacher": teacher(),
        "data": {"name": "CIFAR-10", "licence": "none-stated"},
        "waivers": [waiver("data-licence-unknown")],
    }
    found = judge(**block)
    assert found.decision == "pass"
    (waived,) = found.waived
    assert (waived.rule, waived.decision) == ("data-licence-unknown", "pass")
    assert waived.waived_by is not None
    assert waived.waived_by.by == "Ada"
    later = judge(DAY + timedelta(days=1), **block)
    assert refused(later) == ["data-licence-unknown"]
    (said,) = [f for f in later.findings if f.rule == "waiver-expired"]
    assert "by Ada expired on" in said.sentence
    assert "not counted" in said.sentence


def test_a_waiver_is_for_its_rule_and_its_subject_only() -> None:
    data = [{"name": "a", "licence": "none-stated"}, {"name": "b", "licence": "none-stated"}]
    narrow = judge(teacher=teacher(), data=data, waivers=[waiver("data-licence-unknown", subject="a")])
    assert [f.subject for f in narrow.refusals] == ["b"]
    other = judge(teacher=teacher("llama3"), waivers=[waiver("no-record")])
    assert refused(other) == ["training-forbidden"]
    assert [f.rule for f in other.findings if f.rule.startswith("waiver")] == ["waiver-unused"]
    assert judge(teacher=teacher(), waivers=[waiver("no-record")]).decision == "pass"


def test_every_rejecting_rule_can_be_waived_by_a_person_and_no_note_can() -> None:
    for name, rule in RULES.items():
        assert rule.waivable == (rule.outcome == "reject"), name
        assert rule.finds.endswith(".")
        assert rule.todo.endswith(".")
        assert not rule.fix.endswith(".")
        assert rule.fix[0].islower()


def test_obligations_say_what_goes_into_the_bundle() -> None:
    found = judge(
        teacher=teacher("llama3.1", name="L"), data={"name": "digits", "licence": "CC-BY-4.0", "source": "UCI", "attribution": "A. and K."}
    )  # fmt: skip
    asked = {o.id: o.value for o in found.obligations}
    assert asked["teacher/llama3.1/name-prefix"] == "Llama"
    assert asked["teacher/llama3.1/display-text"] == "Built with Llama"
    assert asked["data/cc-by-4.0/notice-file"].startswith("A. and K., UCI: licensed under CC BY 4.0")
    assert len(asked) == len(found.obligations)
    kinds = {o.kind for o in found.obligations}
    assert kinds == {"name-prefix", "display-text", "licence-text", "notice-file", "pass-on-terms"}


def test_what_holds_for_copies_of_weights_does_not_hold_for_answers() -> None:
    assert [o.kind for o in judge(teacher=teacher("MIT")).obligations] == ["licence-text"]
    assert judge(teacher=teacher("MIT", access="outputs-of-weights")).obligations == ()
    answers = judge(teacher=teacher("llama3.1", access="outputs-of-weights")).obligations
    assert {o.kind for o in answers} == {"name-prefix", "display-text", "licence-text", "pass-on-terms"}


def test_two_teachers_under_one_licence_each_ask() -> None:
    found = judge(teacher=[teacher("MIT", name="a"), teacher("MIT", name="b")])
    assert [o.id for o in found.obligations] == ["teacher/mit/licence-text", "teacher/mit/licence-text-2"]


def test_a_derivative_that_declares_its_ancestor_is_not_told_twice() -> None:
    name = "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"
    silent = judge(teacher=teacher("MIT", name=name))
    assert "terms-by-name" in [f.rule for f in silent.findings]
    honest = judge(
        teacher=teacher("MIT", name=name, derived_from={"name": "Llama-3.3-70B", "licence": "llama3.3"})
    )
    assert "terms-by-name" not in [f.rule for f in honest.findings]
    assert {(o.kind, o.value) for o in honest.obligations} >= {
        (o.kind, o.value) for o in silent.obligations if o.record == "llama3.3"
    }


def test_judging_needs_the_stored_records_and_no_table() -> None:
    declaration = parse_declaration({"teacher": teacher("MIT"), "data": OWN})
    records = resolve(declaration, TABLE)
    records[0]["train"] = {"teacher": "no"}
    assert refused(assess(declaration, records, as_of=DAY, policy=Asked())) == ["training-forbidden"]
    assert refused(assess(declaration, [], as_of=DAY, policy=Asked())) == ["no-record"]
    with pytest.raises(EvidenceError):
        assess(declaration, [{"id": "mit"}], as_of=DAY, policy=Asked())


def test_words_of_a_stored_record_are_put_in_never_run() -> None:
    declaration = parse_declaration({"teacher": teacher("MIT", name="{source.__class__}"), "data": OWN})
    records = resolve(declaration, TABLE)
    records[0]["obligations"] = [
        {"kind": "notice-file", "value": "{name:>999999999} {name} {0.__class__}", "when": "always"}
    ]
    (asked,) = assess(declaration, records, as_of=DAY, policy=Asked()).obligations
    assert asked.value == "{name:>999999999} {source.__class__} {0.__class__}"


LICENCES = st.sampled_from([r.id for r in TABLE.records] + ["", "own", "none-stated", "nobody-knows"])


@given(licences=st.lists(LICENCES, min_size=1, max_size=4), access=st.sampled_from(["weights", "outputs-of-weights", "api-outputs", "dataset", ""]), claim=st.sampled_from([None, True, False]))  # fmt: skip
def test_one_more_layer_never_turns_a_refusal_into_a_pass(
    licences: list[str], access: str, claim: bool | None
) -> None:
    """The strictest wins: what refuses alone refuses in company, but for an API whose terms the company declares."""
    first, *more = licences
    base = {"name": "T", "licence": first, **({"access": access} if access else {})}
    terms = [t for t in more if t not in ("", "own", "none-stated")]
    alone = judge(teacher=base, competing=claim)
    together = judge(teacher={**base, "terms": terms}, competing=claim)
    assert set(refused(alone)) - {"api-terms-missing"} <= set(refused(together))


@given(licence=LICENCES, days=st.integers(-400, 4000))
def test_nothing_passes_without_a_reason_that_names_who_allows_it(licence: str, days: int) -> None:
    found = judge(DAY + timedelta(days=days), teacher={"name": "T", "licence": licence, "access": "weights"})
    if found.decision == "pass":
        assert any(f.subject == "T" and f.rule in ("permitted", "permitted-with-conditions", "own-work") for f in found.findings)  # fmt: skip


def test_a_newer_table_changes_no_stored_verdict() -> None:
    newer = replace(
        TABLE, records=tuple(replace(r, train={"teacher": "no", "data": "no"}) for r in TABLE.records)
    )
    assert judge(teacher=teacher(), table=newer).decision == "reject"
    assert judge(teacher=teacher()).decision == "pass"
