"""The schemas fit the documents that are really written, allow what is to come, and refuse what is wrong."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from fixtures_run import make_run
from fixtures_search import make_search
from jsonschema import Draft202012Validator

import edgekd.recipe
from edgekd.errors import UsageError
from edgekd.evidence.placement import OpPlacement, save_placement
from edgekd.evidence.run import AbsentTarget, load_run
from edgekd.evidence.speedup import Speedup, save_speedup
from edgekd.evidence.thumbnails import save_thumbnails
from edgekd.files import digest_of
from edgekd.gates import judge_run
from edgekd.model import Model
from edgekd.placement import PlacedOp
from edgekd.quantize.reason import Reason
from edgekd.recipe import GatesBlock
from edgekd.release import release
from edgekd.schemas import GENERATED, WRITTEN, generate_schema, load_schema
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore
from edgekd.testing import write_fake
from edgekd.tuned import Tuned, keep_tuned, machine_key


def problems(name: str, document: object) -> list[str]:
    return [e.message for e in Draft202012Validator(load_schema(name)).iter_errors(document)]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """One really written document of each kind."""
    root = tmp_path_factory.mktemp("documents")
    absent = AbsentTarget(target="cuda:tensorrt", required=False, reason="no GPU")
    run = make_run(root / "run", absent=[absent])
    judge_run(root / "run", load_run(root / "run"), GatesBlock.model_validate(run.policy)).save(
        root / "run/verdict.json"
    )
    bundle = release(root / "run", root / "bundle")
    stage = StageStore(root / "cache").run(
        "export", "export", {"a": 1}, lambda out, resume: (out / "x").write_text("x") and None
    )
    (root / "model").mkdir()
    (root / "model/student.safetensors").write_bytes(b"x")
    spec = (TensorSpec(name="x", dtype="float32", shape=("N", 3)),)
    Model(folder=root / "model", name="m", factory="zoo:x", inputs=spec, outputs=spec, parameters=1).save()
    save_thumbnails(root / "run/evidence/flips", {"7": b"\x89PNG\r\n\x1a\n"}, split="test", data=digest_of(0))
    bare = write_fake(root / "model")
    (root / "model/artifact.json").unlink()
    best = Tuned(
        objective="latency", batch=1, threads=2, settings={"arena": False}, machine=machine_key({"cpu": "x"}), evidence={}
    )  # fmt: skip
    op = PlacedOp(name="conv", op_type="Conv", place="CPUExecutionProvider", dtype="float32", time_ns=12.5)
    save_placement(
        OpPlacement(
            artifact=digest_of(1), target="cpu:onnxruntime", provider="CPUExecutionProvider", ops=(op,)
        ),
        root / "placement.json",
    )
    why = Reason(kind="qdq_not_fused", sentence="2 of them", nodes=("q",), time_share=0.5, fix="fuse them")
    save_speedup(
        Speedup(
            label="int8", artifact=digest_of(1), dtype="int8", twin_label="float32", twin=digest_of(2),
            twin_dtype="float32", target="cpu:onnxruntime", ratio=(1.2, 1.1, 1.3), batch=1, threads=1,
            operators=(3, 5), operator_ns=(1e6, 2e6), reasons=(why,),
        ),
        root / "speedup.json",
    )  # fmt: skip
    make_search().save(root / "search.json")
    paths = {
        "search": root / "search.json",
        "speedup": root / "speedup.json",
        "thumbnails": root / "run/evidence/flips/thumbnails.json",
        "tuned": keep_tuned(bare, "cpu:fake", best),
        "artifact": root / "run/artifacts/teacher/artifact.json",
        "evaluation": root / "run/evidence/test/teacher.json",
        "measurement": root / "run/evidence/test/latency-student-int8.json",
        "run": root / "run/run.json",
        "verdict": root / "run/verdict.json",
        "manifest": bundle / "manifest.json",
        "provenance": bundle / "provenance.json",
        "placement": root / "placement.json",
        "stage": stage.folder / "stage.json",
        "model": root / "model/model.json",
        "terms": Path(edgekd.recipe.__file__).parent / "provenance/terms.json",
    }
    return {
        **{name: json.loads(path.read_text()) for name, path in paths.items()},
        "comparison": {
            "schema": "edgekd.comparison/1",
            "a": {"reference": "a.onnx", "artifact": digest_of(1), "dtype": "float32"},
            "b": {"reference": "b.onnx", "artifact": digest_of(2), "dtype": "int8"},
            "target": "cpu:onnxruntime",
            "inputs": "drawn",
            "n": 4,
            "outputs": [
                {
                    "name": "y",
                    "max_abs": 0.1,
                    "mean_abs": 0.01,
                    "max_rel": None,
                    "sqnr_db": 31.0,
                    "argmax_agreement": 1.0,
                }
            ],
            "tensors": [],
            "first_deviation": None,
            "tolerance": 1e-3,
        },
    }


def test_every_schema_is_valid_and_packaged():
    folder = Path(edgekd.recipe.__file__).parent / "schemas"
    assert {p.stem for p in folder.glob("*.json")} == set(WRITTEN + GENERATED)
    for name in WRITTEN + GENERATED:
        Draft202012Validator.check_schema(load_schema(name))


@pytest.mark.parametrize("name", WRITTEN)
def test_written_documents_fit(documents, name):
    document = documents[name]
    assert problems(name, document) == []
    assert problems(name, {**document, "from_the_future": {"x": 1}}) == []
    assert problems(name, {**document, "schema": f"edgekd.{name}/2"})


@pytest.mark.parametrize("name", WRITTEN)
def test_a_removed_field_is_refused(documents, name):
    required = load_schema(name)["required"]
    assert len(required) > 2
    for key in required:
        assert problems(name, {k: v for k, v in documents[name].items() if k != key}), key


def test_wrong_values_are_refused(documents):
    verdict = copy.deepcopy(documents["verdict"])
    verdict["gates"][0]["decision"] = "green"
    assert problems("verdict", verdict)
    verdict = copy.deepcopy(documents["verdict"])
    verdict["gates"][0]["interval"] = [1]
    assert problems("verdict", verdict)
    verdict = copy.deepcopy(documents["verdict"])
    verdict["gates"][0]["decision"] = "error"  # an error says of which kind
    assert problems("verdict", verdict)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_schemas_are_current(name):
    assert load_schema(name) == generate_schema(name), "run python -m edgekd.schemas"


def test_recipes_that_ship_fit():
    folder = Path(edgekd.recipe.__file__).parent / "pipeline/recipes"
    found = sorted(folder.glob("*.yaml"))
    assert found
    for path in found:
        document = yaml.safe_load(path.read_text())
        assert problems("recipe", document) == [], path.name
        assert problems("policy", document["gates"]) == []
        assert problems("policy", {"gates": document["gates"]}) == []
        assert problems("recipe", {**document, "studnet": {}})


def test_an_unknown_policy_key_is_refused():
    assert problems("policy", {"acuracy": {"max_drop": 0.01}})
    assert problems("policy", {"accuracy": {"max_drop": -2}})


def test_an_unknown_schema():
    with pytest.raises(UsageError, match="no schema 'x'"):
        load_schema("x")
    with pytest.raises(UsageError, match="not generated"):
        generate_schema("verdict")
