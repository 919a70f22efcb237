"""ExecuTorch programs from torch modules: the conformance suite, sizes, options, and files from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec
from edgekd.target import ModelQuantizer, SessionOptions
from edgekd.testing import check_exporter
from edgekd_executorch.boundary import Boundary, bare_boundary
from edgekd_executorch.exporter import ExecuTorchExporter
from edgekd_executorch.program import read_program
from edgekd_executorch.runtime import ExecuTorchRuntime
from edgekd_executorch.sizes import DEFAULT_MAX_BATCH, plan_sizes

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checked(digits_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return check_exporter(ExecuTorchExporter(), digits_model, tmp_path_factory.mktemp("conformance"))


def written(folder: Path, source: str, *, name: str) -> Model:
    """A model of a module that is written down in ``folder``."""
    from edgekd_torch.modules import Seeded, describe, write_model

    (folder / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{source}")
    out = folder / f"{name}-model"
    out.mkdir()
    factory = f"python:{name}:make"
    entry = describe(factory, folder)
    return write_model(
        Seeded(0).build(entry), entry, folder=out, name=name, factory=factory, search=folder, prepare={}, lineage={}
    )  # fmt: skip


def test_conforms(checked: Artifact) -> None:
    assert checked.format == "executorch" and checked.dtype == "float32"
    assert checked.inputs[0].shape == ("batch", 1, 8, 8)
    assert checked.lineage["limits"] == {"batch": [1, DEFAULT_MAX_BATCH]}
    parity = checked.lineage["parity"]
    assert parity["batches"] == [1, 2, DEFAULT_MAX_BATCH] and parity["max_abs_error"] < 1e-5
    table = checked.lineage["placement"]
    assert table["delegated"] == table["operators"] == sum(r["count"] for r in table["rows"])
    assert {r["place"] for r in table["rows"]} == {"XnnpackBackend"}


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(
    checked: Artifact, digits_model: Model, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from edgekd.model import load_model\nfrom edgekd_executorch.exporter import ExecuTorchExporter\n"
        "a = ExecuTorchExporter().export(load_model(Path(sys.argv[1])), Path(sys.argv[2]), {})\n"
        "print(a.files[0].sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(digits_model.folder), str(tmp_path)],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.split() == [checked.files[0].sha256]
    assert done.stderr == ""  # neither importing nor exporting says anything


def test_the_batch_is_bounded_where_it_was_said(digits_model: Model, tmp_path: Path) -> None:
    shapes = {"image": ((1, 1, 8, 8), (2, 1, 8, 8), (20, 1, 8, 8))}
    made = ExecuTorchExporter().export(digits_model, tmp_path, {"shapes": shapes})
    # torch narrows the batch to 15 while it traces this network with fewer than 16.
    assert made.lineage["limits"] == {"batch": [1, 20]}
    assert made.lineage["parity"]["batches"] == [1, 2, 20] and made.lineage["parity"]["feeds"] == 6
    session = ExecuTorchRuntime().open(made.path, SessionOptions())
    assert session.run({"image": np.zeros((20, 1, 8, 8), np.float32)})["logits"].shape == (20, 10)
    with pytest.raises(DataError, match="has batch 21, its memory was planned for 1 to 20; export it again"):
        session.run({"image": np.zeros((21, 1, 8, 8), np.float32)})


def test_portable_kernels_and_a_fixed_batch(digits_model: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().export(digits_model, tmp_path, {"backend": "portable", "max_batch": "1"})
    assert made.inputs[0].shape == (1, 1, 8, 8) and made.outputs[0].shape == (1, 10)
    assert made.fixed_batch == 1 and made.lineage["limits"] == {}
    assert made.lineage["placement"]["delegated"] == 0
    assert read_program(made.path).backends == ()
    session = ExecuTorchRuntime().open(made.path, SessionOptions())
    assert session.placement.provider == "portable"


def test_float16_inside_float32_outside(digits_model: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().export(digits_model, tmp_path, {"dtype": "float16", "max_batch": 4})
    assert made.dtype == "float16" and ExecuTorchExporter().read(made.path).dtype == "float16"
    assert {s.dtype for s in (*made.inputs, *made.outputs)} == {"float32"}
    assert 1e-6 < made.lineage["parity"]["max_abs_error"] < 1e-2
    convolutions = [r for r in made.lineage["placement"]["rows"] if "convolution" in r["op"]]
    assert [(r["place"], r["dtype"]) for r in convolutions] == [("XnnpackBackend", "float16")]


def test_several_inputs_outputs_and_sizes(tmp_path: Path) -> None:
    source = """
class Net(nn.Module):
    edgekd_inputs = {"ids": ("int64", ("batch", "length")), "scale": ("float32", ("batch", 4))}
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)
    def forward(self, ids, scale):
        x = self.table(ids) * scale[:, None]
        return {"tokens": self.head(x), "pooled": x.mean(1)}
def make():
    return Net()
"""
    model = written(tmp_path, source, name="tokens_net")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UsageError, match=r"'length'.*--shape ids="):
        ExecuTorchExporter().export(model, out, {})
    shapes = {"ids": ((1, 2), (2, 5), (4, 9)), "scale": ((1, 4), (2, 4), (4, 4))}
    made = ExecuTorchExporter().export(model, out, {"shapes": shapes})
    assert made.lineage["limits"] == {"batch": [1, 4], "length": [2, 9]}
    assert made.outputs == (
        TensorSpec(name="tokens", dtype="float32", shape=("batch", "length", 3)),
        TensorSpec(name="pooled", dtype="float32", shape=("batch", 4)),
    )
    session = ExecuTorchRuntime().open(made.path, SessionOptions())
    scale = np.ones((2, 4), np.float32)
    for ids, what in (
        (np.zeros((2, 1), np.int64), "length 1, its memory was planned for 2 to 9"),
        (np.zeros((3, 2), np.int64), "batch is 3 in input 'ids' and 2 in 'scale'"),
    ):
        with pytest.raises(DataError, match=what):
            session.run({"ids": ids, "scale": scale})


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"backend": "vulkan"}, "backend 'vulkan' is not written by this exporter; choose xnnpack or portable"),
        ({"backend": "gpu"}, "backend 'gpu' is not known"),
        ({"dtype": "int8"}, "does not write int8"),
        ({"dtype": "float16", "backend": "portable"}, "float16 is written for xnnpack only"),
        ({"opset": 18}, r"a \.pte has none"),
        ({"max_batch": "many"}, "max_batch is 'many'"),
        ({"devtools": "maybe"}, "devtools is 'maybe'"),
        ({"no-such": 1}, "no option 'no-such'"),
        ({"shapes": {"x": ((1, 1),) * 3}}, "--shape x names no input"),
        ({"shapes": {"image": ((1, 1, 8, 8), (1, 1, 8, 8), (1, 1, 8, 9))}}, "8 for 9"),
    ],
)  # fmt: skip
def test_options_are_refused_by_name(digits_model: Model, tmp_path: Path, options: Any, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        ExecuTorchExporter().export(digits_model, tmp_path, options)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_lowered_is_named(tmp_path: Path) -> None:
    source = """
class Net(nn.Module):
    edgekd_inputs = {"x": ("float32", ("batch", 4))}
    def forward(self, x):
        return torch.linalg.svdvals(x[:, None] * x[:, :, None])
def make():
    return Net()
class Branch(Net):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x
def branch():
    return Branch()
class Text(Net):
    def forward(self, x):
        return x.flip(1)
def text():
    return Text()
"""
    model = written(tmp_path, source, name="odd_net")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ModelError, match=r"cannot lower odd_net for xnnpack .*linalg_svd"):
        ExecuTorchExporter().export(model, out, {})
    with pytest.raises(ModelError, match=r"torch\.export cannot trace odd_net"):
        ExecuTorchExporter().export(replace(model, factory="python:odd_net:branch"), out, {})
    with pytest.raises(ModelError, match=r"XnnpackBackend takes no operator of odd_net \(it has aten\.flip"):
        ExecuTorchExporter().export(replace(model, factory="python:odd_net:text"), out, {})
    assert not any(out.iterdir())


def test_a_difference_beyond_the_tolerance_leaves_nothing(digits_model: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="output 'logits' differs"):
        ExecuTorchExporter().export(digits_model, tmp_path, {"atol": 0.0, "rtol": 0.0, "devtools": "yes"})
    assert not any(tmp_path.iterdir())


def test_a_program_is_not_quantized_itself(checked: Artifact, tmp_path: Path) -> None:
    assert isinstance(ExecuTorchExporter(), ModelQuantizer)
    with pytest.raises(UsageError, match="quantize from the torch model"):
        ExecuTorchExporter().quantize(checked, QuantConfig(), [], tmp_path)


def test_a_program_from_elsewhere(tmp_path: Path) -> None:
    from executorch.exir import to_edge

    program = torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(1, 4),))
    path = tmp_path / "their.pte"
    path.write_bytes(to_edge(program).to_executorch().buffer)
    read = ExecuTorchExporter().read(path)
    assert [str(s) for s in (*read.inputs, *read.outputs)] == [
        "input_0: float32[1,4]",
        "output_0: float32[1,2]",
    ]
    assert read.lineage["backends"] == [] and "aten::addmm.out" in read.lineage["operators"]
    with pytest.raises(ModelError, match="no output 'logits'; it has output_0"):
        ExecuTorchExporter().read(path, ["logits"])
    session = ExecuTorchRuntime().open(path, SessionOptions())
    assert session.run({"input_0": np.ones((1, 4), np.float32)})["output_0"].shape == (1, 2)


def test_boundaries(tmp_path: Path) -> None:
    bare = bare_boundary([("int64", (1, 128), True)], [("float32", (1, 128, 7), True)], "float32")
    assert bare.inputs[0].shape == (1, "dim_128") and bare.outputs[0].shape == (1, "dim_128", 7)
    assert bare.limits == {"dim_128": (1, 128)}
    assert Boundary.from_text(bare.to_text(), tmp_path) == bare
    for text, what in (
        ("{", "damaged boundary"),
        ('{"schema": "edgekd.pte/9"}', "this version reads edgekd.pte/1"),
    ):
        with pytest.raises(ModelError, match=what):
            Boundary.from_text(text, tmp_path)


def test_damaged_programs_are_exceptions(checked: Artifact, tmp_path: Path) -> None:
    data = checked.path.read_bytes()
    path = tmp_path / "broken.pte"
    for content, what in (
        (data[:-100], "is truncated"),
        (b"PK" * 100, "is not an ExecuTorch program"),
        (data[:30], "is not an ExecuTorch program"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS"),
        (data.replace(b"float32", b"float64"), "its boundary says"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=what):
            ExecuTorchExporter().read(path)
    # Whatever bytes change in the flatbuffer: read, or refused in one line.
    rng = np.random.default_rng(0)
    size = int.from_bytes(data[16:24], "little")
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for at in rng.integers(40, size, 8):
            changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            ExecuTorchExporter().read(path)
        except ModelError as e:
            refused += 1
            assert "\n" not in str(e)
    assert refused > 20


def test_sizes() -> None:
    image = TensorSpec(name="image", dtype="float32", shape=("n", 3, "h"))
    one = plan_sizes([image], {"image": ((100, 3, 8),) * 3}, None)
    assert one.limits == {"n": (1, 100)} and one.fixed == {"h": 8} and one.inputs[0].shape == ("n", 3, 8)
    assert one.usual == {"image": ((1, 3, 8), (100, 3, 8), (100, 3, 8))}
    both = plan_sizes([image], {"image": ((2, 3, 4), (2, 3, 8), (2, 3, 9))}, None)
    assert both.fixed == {"n": 2} and both.limits == {"h": (4, 9)}
    mask = TensorSpec(name="mask", dtype="float32", shape=("n", "h"))
    with pytest.raises(UsageError, match="'h' the ranges 4 to 9 and 20 to 30"):
        plan_sizes(
            [image, mask],
            {"image": ((1, 3, 4), (1, 3, 8), (2, 3, 9)), "mask": ((1, 20), (1, 20), (2, 30))},
            None,
        )
    with pytest.raises(UsageError, match="max_batch is 0"):
        plan_sizes([image], {}, 0)
