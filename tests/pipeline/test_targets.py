"""From a target's name to what opens artifacts there, or the reason why it is absent."""

from __future__ import annotations

import pytest

from edgekd import plugins
from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.evidence.run import AbsentTarget
from edgekd.pipeline import targets
from edgekd.pipeline.targets import ResolvedTarget, present_target, resolve_target, torch_target
from edgekd_onnx.runtime import OnnxRuntime


def test_a_target_that_is_here_names_what_opens_each_format() -> None:
    found = resolve_target("cpu:onnxruntime")
    assert isinstance(found, ResolvedTarget)
    assert str(found.target) == "cpu:onnxruntime"
    assert found.runtime_paths == dict.fromkeys(("onnx", "ort"), "edgekd_onnx.runtime:OnnxRuntime")
    # A child loads it by this path.
    assert plugins.load_path(found.runtime_paths["onnx"]) is OnnxRuntime
    assert present_target("cpu:onnxruntime") == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpu:onnxruntim", ["runtime 'onnxruntim' is not provided", "known: ", "onnxruntime"]),
        ("gpu:onnxruntime", ["device 'gpu' is not known", "cpu", "cuda"]),
    ],
)
def test_an_unknown_name_is_wrong_usage_unless_the_target_is_optional(text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_target(text)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fix == "correct the name, or mark it `required: false`"
    absent = resolve_target(text, required=False)
    assert isinstance(absent, AbsentTarget)
    assert (absent.target, absent.required) == (text, False)
    assert words[0] in absent.reason


@pytest.mark.parametrize("text", ["cpu", "cpu:", ":onnxruntime", "cpu:onnxruntime+", "cpu onnxruntime"])
def test_what_is_no_target_is_refused_even_where_it_is_optional(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form device:runtime"):
        resolve_target(text, required=False)


@pytest.mark.parametrize("required", [True, False])
def test_a_known_target_that_this_machine_lacks_is_absent_with_the_runtime_s_reason(
    monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    monkeypatch.setattr(OnnxRuntime, "unavailable", lambda self, device, provider: f"no {device} driver")
    absent = resolve_target("cuda:onnxruntime", required=required)
    assert absent == AbsentTarget(target="cuda:onnxruntime", required=required, reason="no cuda driver")
    with pytest.raises(
        TargetUnavailableError,
        match=r"cuda:onnxruntime is not available: no cuda driver; see `edgekd doctor`",
    ):
        present_target("cuda:onnxruntime")


def test_a_provider_is_asked_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(OnnxRuntime, "unavailable", lambda self, *where: asked.append(where) or "")
    found = resolve_target("cpu:onnxruntime+xnnpack")
    assert isinstance(found, ResolvedTarget)
    assert (found.target.provider, asked) == ("xnnpack", [("cpu", "xnnpack")])


def test_torch_is_named_without_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(group: str, name: str) -> None:
        raise AssertionError(f"{name} was loaded")

    monkeypatch.setattr(targets, "load_plugin", refuse)
    assert torch_target().runtime_paths == {"torch": "edgekd_torch.runtime:TorchRuntime"}
