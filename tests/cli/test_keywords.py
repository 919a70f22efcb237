"""A verb's options as keywords: the same parser, the same checks, words that a Python reader knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.cli import gate
from edgekd.cli.keywords import Keywords, in_keywords
from edgekd.errors import UsageError


@pytest.fixture(scope="module")
def keywords() -> Keywords:
    return Keywords(gate.configure, leave_out=("out", "json"))


def test_keywords_make_the_namespace_of_the_command_line(keywords: Keywords) -> None:
    given: dict[str, Any] = {
        "student": Path("s.onnx"), "max_latency_ratio": 0.5, "threads": 2, "remeasure": True, "first_run": "accept",
        "shape": {"image": (1, 3, 8, 8), "mask": "1x8"}, "weights": {"student": Path("w.safetensors")},
        "map": {"student:images": "x"}, "output": ["teacher:logits", "probs:probs"], "teacher": None,
    }  # fmt: skip
    parsed = keywords.parse(given)
    words = [
        *("--student", "s.onnx", "--max-latency-ratio", "0.5", "--threads", "2", "--remeasure"),
        *("--first-run", "accept", "--shape", "image=1x3x8x8", "--shape", "mask=1x8"),
        *("--weights", "student:w.safetensors", "--map", "student:images=x"),
        *("--output", "teacher:logits", "--output", "probs:probs"),
    ]
    import argparse

    parser = argparse.ArgumentParser()
    gate.configure(parser)
    assert parsed == parser.parse_args(words)
    assert keywords.parse({"remeasure": False}).remeasure is False


def test_a_value_that_looks_like_an_option_stays_a_value(keywords: Keywords) -> None:
    assert keywords.parse({"student": "--json"}).student == "--json"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_accuracy_drop": -1.5}, "max_accuracy_drop=: -1.5 is below 0"),
        ({"threads": 0}, "threads=: 0 is not a whole number from 1 on"),
        ({"threads": True}, "threads=True is neither text, path nor number"),
        ({"scenario": "no-such"}, "scenario=: invalid choice: 'no-such'"),
        ({"remeasure": "yes"}, "remeasure='yes' is neither True nor False; write remeasure=True"),
        ({"student": ["a", "b"]}, "student=['a', 'b'] is neither text, path nor number"),
        ({"shape": {"x": (1, 2.5)}}, "is neither text, path nor number"),
        ({"max_size_mib": float("nan")}, "max_size_mib=: nan is not finite"),
    ],
)
def test_a_value_that_its_option_does_not_take(
    keywords: Keywords, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        keywords.parse(given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keywords_name_the_nearest(keywords: Keywords) -> None:
    keywords.check(["student", "own"], where="f", also=("own",))
    with pytest.raises(
        UsageError, match=r"f has no keyword 'max_latency_ration'; did you mean 'max_latency_ratio'"
    ):
        keywords.check(["max_latency_ration"], where="f")
    with pytest.raises(UsageError, match=r"known keywords: .*baseline, batch"):
        keywords.check(["zzz"], where="f")
    with pytest.raises(UsageError, match="no keyword 'out'"):
        keywords.check(["out"], where="f")


def test_messages_speak_in_keywords() -> None:
    said = in_keywords(
        "--shape x has 2; say how large: --shape x=1x3, or --student S with --teacher T.onnx (--data)"
    )
    assert (
        said == 'shape= x has 2; say how large: shape="x=1x3", or student="S" with teacher="T.onnx" (data=)'
    )
