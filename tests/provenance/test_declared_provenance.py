"""Declarations: what is written comes back whole, and what means nothing is refused with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import RecipeError
from edgekd.provenance.declared import (
    Declaration,
    Subject,
    TextFile,
    from_run,
    parse_declaration,
    read_texts,
)
from edgekd.provenance.rulebook import RULES
from edgekd.recipe_provenance import ProvenanceBlock, load_provenance

WAIVER = {"rule": "no-record", "by": "Zoë Łukasz", "reason": "読んだ", "expires": "2027-12-31"}
WHOLE: dict[str, Any] = {
    "teacher": [
        {
            "name": "通义千问", "version": "2.5", "digest": "sha256:00", "licence": "qwen", "source": "hf", "access": "weights",
            "terms": ["openai", "hf"], "attribution": "Alibaba", "derived_from": [{"name": "base", "licence": "own"}],
        },
        {"name": "second", "licence": "own"},
    ],
    "data": [{"name": "d", "licence": "CC-BY-4.0"}],
    "use": "research",
    "competing": False,
    "waivers": [WAIVER],
}  # fmt: skip


def test_a_declaration_comes_back_whole() -> None:
    declaration = parse_declaration(WHOLE)
    assert json.loads(json.dumps(declaration.to_json())) == WHOLE
    assert parse_declaration(declaration.to_json()) == declaration
    assert [s.name for s in declaration.subjects] == ["通义千问", "second", "d"]
    assert [s.name for s in declaration.teachers[0].walk()] == ["通义千问", "base"]


def test_one_or_several_and_nothing() -> None:
    one = parse_declaration({"teacher": {"name": "t", "version": 3, "terms": "openai"}})
    assert (one.teachers[0].version, one.teachers[0].terms, one.data) == ("3", ("openai",), ())
    assert parse_declaration({}) == Declaration()
    long = "word " * 4000
    waived = parse_declaration({"waivers": [{**WAIVER, "reason": long}]})
    assert waived.waivers[0].reason == long.strip()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"techer": {}}, "provenance has the unknown key 'techer'; did you mean 'teacher'?"),
        ({"teacher": "T"}, "provenance.teacher is 'T', expected a block"),
        ({"teacher": {"licence": "MIT"}}, "provenance.teacher.name is missing or empty"),
        ({"teacher": {"name": " "}}, "provenance.teacher.name is missing or empty"),
        ({"teacher": {"name": True}}, "provenance.teacher.name is True, expected text"),
        ({"teacher": {"name": "a\x1b[2Jb"}}, "provenance.teacher.name holds control characters"),
        ({"teacher": {"name": "MIT\u202eTIM"}}, "holds control characters: 'MIT\\u202eTIM'"),
        ({"teacher": {"name": "t", "access": "api"}}, "provenance.teacher.access is 'api'; choose one of weights"),
        ({"data": [{"name": "d"}, {"name": "e", "access": "weights"}]}, "provenance.data.1.access is for a teacher"),
        ({"teacher": {"name": "t", "derived_from": {"nme": "u"}}}, "provenance.teacher.derived_from has the unknown key 'nme'"),
        ({"use": "fun"}, "provenance.use is 'fun'; choose one of commercial, research"),
        ({"competing": "no"}, "provenance.competing is 'no', and only true or false tells"),
        ({"waivers": [{**WAIVER, "by": ""}]}, "provenance.waivers.0.by is missing or empty; a waiver needs by: the person"),
        ({"waivers": [{**WAIVER, "by": "- 1 -"}]}, "which is no person's name"),
        ({"waivers": [{**WAIVER, "reason": " "}]}, "provenance.waivers.0.reason is missing or empty"),
        ({"waivers": [{**WAIVER, "expires": "soon"}]}, "provenance.waivers.0.expires is 'soon', which is no date"),
        ({"waivers": [{**WAIVER, "expires": "2027-02-30"}]}, "which is no date (day"),
        ({"waivers": [{**WAIVER, "expires": ""}]}, "provenance.waivers.0.expires is missing or empty"),
        ({"waivers": [{**WAIVER, "rule": "no-recrod"}]}, "there is no such rule; did you mean 'no-record'?"),
        ({"waivers": [{**WAIVER, "rule": "permitted"}]}, "which nobody needs to waive"),
        ({"waivers": [{"rule": "no-record"}]}, "provenance.waivers.0.by is missing or empty"),
        ({"waivers": 3}, "provenance.waivers is 3, expected one or a list"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_its_place(block: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_declaration(block, "f.yaml")
    said = str(caught.value)
    assert said.startswith("f.yaml: ")
    assert message in said
    assert "\n" not in said


def test_ancestors_without_end_and_crowds_are_refused() -> None:
    block: dict[str, Any] = {"name": "t"}
    for _ in range(30):
        block = {"name": "t", "derived_from": block}
    with pytest.raises(RecipeError, match="more than 8 times over"):
        parse_declaration({"teacher": block})
    with pytest.raises(RecipeError, match="more than 100 teachers"):
        parse_declaration({"data": [{"name": f"d{i}"} for i in range(101)]})


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["teacher", "data", "name", "licence", "waivers", "rule", "by", "terms", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["teacher", "data", "use", "competing", "waivers"]), _PLAIN, max_size=4)
)
def test_any_plain_values_are_read_or_refused_in_one_line(block: dict[str, Any]) -> None:
    try:
        declaration = parse_declaration(block)
    except RecipeError as e:
        assert "\n" not in str(e)
    else:
        assert parse_declaration(declaration.to_json()) == declaration


def test_texts_are_read_beside_the_recipe_and_kept_with_their_hash(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Ålesund licence\n", encoding="utf-8")
    block = {"teacher": {"name": "t", "licence_file": "LICENSE", "notice_file": [str(tmp_path / "LICENSE")]}}
    declaration = read_texts(parse_declaration(block), tmp_path)
    (licence,) = declaration.teachers[0].texts_of("licence")
    assert licence.text == "Ålesund licence\n"
    assert len(licence.sha256) == 64
    (notice,) = declaration.teachers[0].texts_of("notice")
    assert notice.name == "LICENSE", "a path of this machine is nobody's business"
    stored = declaration.to_json()
    assert parse_declaration(stored) == declaration
    stored["teacher"][0]["licence_file"][0]["text"] += "!"
    with pytest.raises(RecipeError, match="does not have the SHA-256"):
        parse_declaration(stored)


@pytest.mark.parametrize("kind", ["up", "absolute", "link", "folder", "pipe", "nul", "loop"])
def test_a_text_is_a_plain_file_below_what_names_it(tmp_path: Path, kind: str) -> None:
    base = tmp_path / "recipes"
    base.mkdir()
    (tmp_path / "secret").write_text("s")
    names = {"up": "../secret", "absolute": str(tmp_path / "secret"), "folder": ".", "nul": "a\0b"}
    if kind == "link":
        (base / "link").symlink_to(tmp_path / "secret")
    elif kind == "loop":
        (base / "loop").symlink_to("loop")
    elif kind == "pipe":
        os.mkfifo(base / "pipe")
    text = TextFile(kind="licence", name=names.get(kind, kind))
    subject = Subject(role="data", name="d", texts=(text,))
    with pytest.raises(RecipeError) as caught:
        read_texts(Declaration(data=(subject,)), base)
    assert "\n" not in str(caught.value)


def test_a_text_that_is_named_in_a_roundabout_way_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/LICENSE").write_text("x")
    for name in ("sub/LICENSE", "sub/../sub/LICENSE", str(tmp_path / "sub/LICENSE")):
        (text,) = (
            read_texts(parse_declaration({"data": {"name": "d", "licence_file": name}}), tmp_path)
            .data[0]
            .texts
        )
        assert (text.name, text.text) == ("sub/LICENSE", "x")


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * (1 << 21)], ids=["absent", "no text", "huge"])
def test_a_text_that_cannot_be_read_is_refused_whatever_was_waived(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "LICENSE").write_bytes(content)
    block = {
        "data": {"name": "d", "licence_file": "LICENSE"},
        "waivers": [{**WAIVER, "rule": r} for r in RULES if RULES[r].waivable],
    }
    with pytest.raises(RecipeError, match="LICENSE"):
        read_texts(parse_declaration(block), tmp_path)


def test_from_run_knows_what_was_stored_and_what_was_not() -> None:
    assert from_run({}) is None
    assert from_run({"teacher": {"name": "kept by an earlier version", "licence": "MIT"}}) is None
    stored = {"declared": parse_declaration(WHOLE).to_json(), "records": [], "terms": {}}
    assert from_run(stored) == (parse_declaration(WHOLE), ())
    with pytest.raises(RecipeError, match="no list of records"):
        from_run({**stored, "records": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("provenance:\n  teacher:\n    name: T\n    licnce: MIT\n", ":4: unknown key 'teacher.licnce'; did you mean 'licence'?"),
        ("data:\n- name: d\n- {name: e, access: weights}\n", ":3: unknown key 'data.1.access'"),
        ("teacher:\n  name: T\n  access: wieghts\n", ":3: 'teacher.access':"),
        ("teacher: {name: T}\nwaivers:\n- rule: no-record\n  by: '-'\n  reason: r\n  expires: 2027-12-01\n", ":4: 'waivers.0.by': is '-', which is no"),
        ("competing: 'no'\n", ":1: 'competing': Input should be a valid boolean"),
        ("teacher:\n  name: T\n  derived_from:\n    nme: U\n", ":3: 'teacher.derived_from': has the unknown key 'nme'"),
    ],
)  # fmt: skip
def test_a_file_is_refused_with_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_provenance(path, {})
    assert str(caught.value).startswith(f"{path}{message}"), caught.value


def test_a_file_that_is_not_there_says_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"there is no .*absent\.yaml; write one, which holds at least \{teacher"
    ):
        load_provenance(tmp_path / "absent.yaml", {})


def test_the_block_and_the_plain_values_know_the_same_keys() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_declaration({"teacher": {"zzz": 1}})
    known = str(caught.value).partition("known keys: ")[2].split(", ")
    assert set(known) == set(ProvenanceBlock.model_fields["teacher"].annotation.__args__[0].model_fields)  # type: ignore[union-attr]
