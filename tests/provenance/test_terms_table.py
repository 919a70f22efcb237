"""The terms table: every record says where it is from, ids are nobody else's, and people's spellings find them."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

from edgekd.errors import EvidenceError
from edgekd.provenance.terms import find_record, load_terms, normalised, record_from_json, records_by_name
from edgekd.schemas import load_schema

RAW = json.loads(files("edgekd.provenance").joinpath("terms.json").read_text(encoding="utf-8"))
TABLE = load_terms()

#: The teachers that EdgeKD started with.
FIRST = [
    "mit",
    "apache-2.0",
    "deepseek-r1",
    "deepseek-license-1.0",
    "deepseek-api",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "gemma-1-3n",
    "gemma-4",
    "qwen1-tongyi",
    "qwen-license-2.5-72b",
    "qwen-research",
    "qwen-apache",
    "openai-consumer",
    "openai-services",
    "gpt-oss",
    "anthropic-commercial",
    "anthropic-usage-policy",
    "gemini-api",
    "google-consumer",
    "zai-api",
    "mistral-api",
    "mistral-research",
    "nvidia-community-model",
    "nvidia-open-model",
    "cc-by-nc",
]


def test_the_table_fits_its_schema() -> None:
    assert [e.message for e in Draft202012Validator(load_schema("terms")).iter_errors(RAW)] == []
    assert len(FIRST) == 30
    assert set(FIRST) <= {r.id for r in TABLE.records}


def test_no_two_records_are_called_alike_and_what_is_brought_exists() -> None:
    names = Counter(normalised(n) for r in TABLE.records for n in (r.id, *r.aliases))
    assert [n for n, count in names.items() if count > 1] == []
    ids = {r.id for r in TABLE.records}
    assert {b for r in TABLE.records for b in r.brings} <= ids
    assert [r.id for r in TABLE.records] == sorted(ids)


def test_what_was_read_has_a_hash_and_what_was_not_says_so() -> None:
    for record in TABLE.records:
        assert date(2026, 1, 1) <= record.captured <= date.fromisoformat(TABLE.captured)
        assert bool(record.sha256) == ("hashed" in record.source), record.id
        if "hashed" not in record.source and record.evidence == "verified":
            assert "commit" in record.source or "archive" in record.source, record.id


def test_a_record_comes_back_from_json_whole() -> None:
    assert [record_from_json(r.to_json()) for r in TABLE.records] == list(TABLE.records)


@pytest.mark.parametrize(
    ("written", "role", "record"),
    [
        ("MIT", "teacher", "mit"), ("mit", "data", "mit"), ("Apache 2.0", "teacher", "apache-2.0"),
        ("Apache-2.0", "data", "apache-2.0"), ("BSD-2-Clause", "teacher", "bsd-2-clause"),
        ("bsd_3_clause", "teacher", "bsd-3-clause"), ("ISC", "teacher", "isc"), ("CC0-1.0", "data", "cc0-1.0"),
        ("CC-BY-4.0", "data", "cc-by-4.0"), ("CC BY 4.0", "data", "cc-by-4.0"),
        ("CC-BY-SA-4.0", "data", "cc-by-sa-4.0"), ("cc-by-nc-4.0", "teacher", "cc-by-nc"),
        ("GPL-3.0", "teacher", "gpl-3.0"), ("gpl-3.0-or-later", "teacher", "gpl-3.0"), ("openrail", "teacher", "openrail"),
        ("creativeml-openrail-m", "teacher", "openrail"), ("llama-3", "teacher", "llama3"), ("LLAMA3", "teacher", "llama3"),
        ("Llama-3.1", "teacher", "llama3.1"), ("gemma", "teacher", "gemma-1-3n"), ("openai", "teacher", "openai-services"),
        ("ODC-By", "data", "odc-by-1.0"),
    ],
)  # fmt: skip
def test_the_usual_spellings_are_found(written: str, role: str, record: str) -> None:
    found = find_record(TABLE.records, written, role)
    assert found is not None
    assert found.id == record
    assert role in found.train


@pytest.mark.parametrize("written", ["WTFPL", "llama", "llama-3.11", "MIT OR Apache-2.0", "mit.", "ми́т"])
def test_what_nobody_recorded_is_not_guessed(written: str) -> None:
    assert find_record(TABLE.records, written, "teacher") is None


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("meta-llama/Meta-Llama-3-8B", ["llama3"]), ("Meta-Llama-3-8B-Instruct", ["llama3"]), ("Llama-3-8B", ["llama3"]),
        ("unsloth/Meta-Llama-3.1-8B", ["llama3.1"]), ("meta-llama/Llama-3.1-8B", ["llama3.1"]),
        ("hf.co/meta-llama/Llama-3.1-8B", ["llama3.1"]), ("https://huggingface.co/x/Llama-3.1-8B/tree/main", ["llama3.1"]),
        ("llama 3.1 8b", ["llama3.1"]), ("Llama3.1-8B", ["llama3.1"]), ("Ｌlama_3.1", ["llama3.1"]),
        ("NousResearch/Llama-2-7b-hf", ["llama2"]), ("TheBloke/Llama-2-7B-GGUF", ["llama2"]),
        ("x/Hermes-2-Pro-Llama-3-8B", ["llama3"]), ("unsloth/DeepSeek-R1-Distill-Llama-8B", ["llama3.1"]),
        ("DeepSeek_R1_Distill_Llama_8B", ["llama3.1"]), ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", ["llama3.3"]),
        ("deepseek-r1:70b", ["llama3.3"]), ("google/gemma-2-9b-it", ["gemma-1-3n"]), ("gemma3:4b", ["gemma-1-3n"]),
        ("Qwen/Qwen-1.8B", ["tongyi-qianwen-research"]), ("Qwen-7B-Chat", ["qwen1-tongyi"]),
        ("gpt-4o", ["openai-services"]), ("GPT 4.1 mini", ["openai-services"]), ("openai/o3-mini", ["openai-services"]),
        ("chatgpt", ["openai-consumer"]), ("claude-3-5-sonnet", ["anthropic-commercial"]),
        ("us.anthropic.claude-3-5-sonnet-v2:0", ["anthropic-commercial"]), ("gemini-1.5-pro", ["gemini-api"]),
        ("mistralai/Mistral-Large-2407", ["mistral-research"]),
        # near, and not it
        ("google/gemma-4-9b", []), ("my-llama", []), ("llama-30b", []), ("open_llama_3b", []), ("TinyLlama-1.1B", []),
        ("Qwen/Qwen2.5-7B", []), ("DeepSeek-R1-Distill-Qwen-7B", []), ("gpt-2", []), ("gpt-oss-120b", []),
        ("mistralai/Mistral-Large-3-675B", []), ("cifar-resnet44", []), ("o10", []), ("", []), ("//", []),
    ],
)  # fmt: skip
def test_names_that_give_their_terms_away(name: str, records: list[str]) -> None:
    assert [r.id for r in records_by_name(TABLE.records, name, "teacher")] == records


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"teacher": "maybe"}},
        {"evidence": "sure"},
        {"captured": "yesterday"},
        {"conditions": 3},
        {"train": None},
    ],
)
def test_a_damaged_record_is_refused_in_one_line(change: dict[str, object]) -> None:
    with pytest.raises(EvidenceError) as caught:
        record_from_json({**TABLE.records[0].to_json(), **change})
    assert "\n" not in str(caught.value)
