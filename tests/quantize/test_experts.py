"""An expert that saw no token in calibration is found, in transformers' own mixtures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import DataError, ModelError
from edgekd.quantize.experts import ExpertUse, check_experts, count_selected
from edgekd.quantize.spool import CalibrationSpool
from edgekd.spec import TensorSpec

EXPERTS = 4


def test_selections_are_counted_per_expert() -> None:
    indices = np.array([[[0, 1], [1, 3]], [[1, 0], [3, 3]]])
    assert count_selected(indices, 5).tolist() == [2, 3, 0, 3, 0]
    tokens = np.array([[True, False], [True, False]])
    assert count_selected(indices, 5, tokens).tolist() == [2, 2, 0, 0, 0]
    with pytest.raises(ModelError, match="chose expert 3 of 3"):
        count_selected(indices, 3)


def test_an_expert_without_tokens_is_refused_by_name() -> None:
    uses = [ExpertUse(layer="layers.0", counts=(3, 4)), ExpertUse(layer="layers.1", counts=(7, 0, 0))]
    with pytest.raises(
        DataError, match=r"layer 'layers\.1': expert 1, 2 of 3 saw no token in 9 calibration examples"
    ):
        check_experts(uses, 9)
    assert check_experts(uses[:1], 9) == {"layers.0": [3, 4]}


@pytest.fixture(scope="module")
def moe() -> Any:
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_experts=EXPERTS, num_experts_per_tok=2,
        max_position_embeddings=64, decoder_sparse_step=1,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config).eval()


def _export(model: Any, folder: Path) -> Path:
    pytest.importorskip("optimum.exporters.onnx")
    from optimum.exporters.onnx import main_export

    model.save_pretrained(folder / "model")
    main_export(
        str(folder / "model"),
        output=folder / "onnx",
        task="text-generation",
        no_post_process=True,
        do_validation=False,
    )
    return folder / "onnx" / "model.onnx"


@pytest.fixture(scope="module")
def exported(moe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(moe, tmp_path_factory.mktemp("moe"))


def _feeds(batch: int = 4, length: int = 12, padded: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(1).integers(0, 64, (batch, length))
    mask = np.ones_like(ids)
    mask[:, length - padded :] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": np.tile(np.arange(length), (batch, 1))}


def _spool(folder: Path, feeds: dict[str, np.ndarray]) -> CalibrationSpool:
    inputs = tuple(TensorSpec(name=n, dtype="int64", shape=("batch", "length")) for n in feeds)
    spool = CalibrationSpool(folder=folder, inputs=inputs)
    spool.fill([feeds, feeds], 100)
    return spool


def _starve(path: Path, layer: int, expert: int) -> Path:
    """The router of one layer never chooses one expert: a bias far below all scores, before the softmax."""
    import onnx

    model = onnx.load(str(path))
    node = next(n for n in model.graph.node if n.name == f"/model/layers.{layer}/mlp/gate/MatMul")
    made = node.output[0]
    node.output[0] = "unbiased"
    bias = np.zeros(EXPERTS, np.float32)
    bias[expert] = -1e4
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "starving"))
    at = list(model.graph.node).index(node) + 1
    model.graph.node.insert(at, onnx.helper.make_node("Add", ["unbiased", "starving"], [made], name="bias"))
    target = path.with_name("starved.onnx")
    onnx.save(model, str(target))
    return target


def test_routers_of_an_exported_mixture_are_counted(exported: Path, moe: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgekd_onnx.experts import check_experts_onnx

    feeds = _feeds(padded=3)
    found = check_experts_onnx(exported, _spool(tmp_path, feeds))
    assert list(found) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    with torch.no_grad():
        asked = {k: torch.from_numpy(v) for k, v in feeds.items()}
        routed = moe(**asked, output_router_logits=True).router_logits
    tokens = feeds["attention_mask"].reshape(-1) != 0
    for counts, logits in zip(found.values(), routed, strict=True):
        chosen = logits.topk(2).indices.numpy()[tokens]
        assert counts == (2 * np.bincount(chosen.reshape(-1), minlength=EXPERTS)).tolist()
        assert sum(counts) == 2 * 2 * 4 * 9


def test_a_starved_expert_is_refused_by_layer_and_number(exported: Path, tmp_path: Path) -> None:
    from edgekd_onnx.experts import check_experts_onnx

    starved = _starve(exported, layer=1, expert=2)
    with pytest.raises(DataError, match=r"layer 'model\.layers\.1\.mlp': expert 2 of 4 saw no token in 8"):
        check_experts_onnx(starved, _spool(tmp_path, _feeds()))


def test_quantizing_records_and_refuses(exported: Path, tmp_path: Path) -> None:
    from edgekd.quantize.config import QuantConfig
    from edgekd_onnx.exporter import OnnxExporter

    source = OnnxExporter().read(exported)
    made = OnnxExporter().quantize(source, QuantConfig(), [_feeds()], tmp_path)
    assert [sum(counts) for counts in made.lineage["experts"].values()] == [2 * 4 * 12] * 2
    out = tmp_path / "few"
    out.mkdir()
    with pytest.raises(
        DataError, match=r"layer 'model\.layers\.0\.mlp': expert .* saw no token in 1 calibration"
    ):
        OnnxExporter().quantize(source, QuantConfig(), [_feeds(1, 1)], out)
    assert list(out.iterdir()) == []


def test_choices_among_answers_are_no_experts() -> None:
    """The five best classes of a classifier, and the best places of a detector."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from edgekd_onnx.experts import find_routers

    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, (8, 10), np.zeros(80, np.float32).tobytes(), raw=True
    )
    k = helper.make_tensor("k", TensorProto.INT64, (1,), [5])
    head = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("TopK", ["s", "k"], ["v", "i"])]
    place = [*head, helper.make_node("Gather", ["boxes", "i"], ["best"])]
    for nodes in (head, place):
        graph = helper.make_graph(nodes, "g", [], [], [weights, k])
        assert find_routers(helper.make_model(graph)) == []
