"""Each loss against its formula, written a second time in float64 numpy, and against hand calculations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edgekd.distill.config import TrainConfig
from edgekd.distill.group import Group
from edgekd.distill.terms import LossTerm, check_terms, loss_term
from edgekd.errors import UsageError

torch = pytest.importorskip("torch")

from edgekd.distill.losses import (  # noqa: E402
    attention_loss,
    dist_loss,
    feature_loss,
    relation_loss,
    soft_target_loss,
)
from edgekd.distill.losses.objective import objective, term_names  # noqa: E402

RNG = np.random.default_rng(0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def t(x: np.ndarray) -> Any:
    return torch.tensor(np.asarray(x, np.float64))


# DIST


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_one_minus_the_correlations(temperature: float) -> None:
    s, teacher = RNG.normal(0, 3, (7, 5)), RNG.normal(0, 3, (7, 5))
    p, q = softmax(s / temperature), softmax(teacher / temperature)
    inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(7)])
    intra = np.mean([1 - np.corrcoef(p[:, j], q[:, j])[0, 1] for j in range(5)])
    for beta, gamma in ((1.0, 1.0), (2.0, 0.0), (0.0, 3.0)):
        made = dist_loss(t(s), t(teacher), beta=beta, gamma=gamma, temperature=temperature)
        assert float(made) == pytest.approx(temperature**2 * (beta * inter + gamma * intra), rel=1e-9)


def test_dist_by_hand() -> None:
    """Two classes, two examples, opposite answers: every correlation is -1, each part 2."""
    s = np.log([[0.9, 0.1], [0.1, 0.9]])
    assert float(dist_loss(t(s), t(-s), beta=1, gamma=1, temperature=1)) == pytest.approx(4)
    assert float(dist_loss(t(s), t(s + 7), beta=1, gamma=1, temperature=1)) == pytest.approx(0, abs=1e-12)


# Features


def test_feature_by_hand() -> None:
    assert float(feature_loss(t([[1.0, 2.0]]), t([[3.0, 2.0]]))) == pytest.approx((4 + 0) / 2)


# Attention


def reference_attention(x: np.ndarray) -> np.ndarray:
    m = (x**2).sum(1).reshape(len(x), -1)
    return m / np.linalg.norm(m, axis=1, keepdims=True)


def test_attention_is_of_normalised_squares_over_channels() -> None:
    s, teacher = RNG.standard_normal((3, 4, 5, 6)), RNG.standard_normal((3, 9, 5, 6))
    wanted = ((reference_attention(s) - reference_attention(teacher)) ** 2).mean()
    assert float(attention_loss(t(s), t(teacher))) == pytest.approx(wanted, rel=1e-9)
    assert float(attention_loss(t(s), t(3 * s))) == pytest.approx(0, abs=1e-15), "scale does not matter"


def test_attention_of_tokens_sums_over_their_width() -> None:
    s, teacher = RNG.standard_normal((3, 7, 4)), RNG.standard_normal((3, 7, 9))
    as_maps = attention_loss(t(s.transpose(0, 2, 1)[..., None]), t(teacher.transpose(0, 2, 1)[..., None]))
    assert float(attention_loss(t(s), t(teacher))) == pytest.approx(float(as_maps), rel=1e-12)


def test_attention_by_hand() -> None:
    """Squares (1, 0) and (0, 4): maps (1, 0) and (0, 1), each position off by 1."""
    a, b = np.asarray([[[[1.0, 0.0]]]]), np.asarray([[[[0.0, 2.0]]]])
    assert float(attention_loss(t(a), t(b))) == pytest.approx(1)


# Relations


def huber(a: float, b: float) -> float:
    d = abs(a - b)
    return 0.5 * d * d if d < 1 else d - 0.5


def distances(x: np.ndarray) -> np.ndarray:
    d = np.asarray([[np.linalg.norm(a - b) for a in x] for b in x])
    return d / d[d > 0].mean()


def cosines(x: np.ndarray) -> dict[tuple[int, int, int], float]:
    found = {}
    for i, j, k in itertools.product(range(len(x)), repeat=3):
        a, b = x[i] - x[j], x[k] - x[j]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        found[i, j, k] = float(a @ b / size) if size else 0.0
    return found


def test_relation_is_of_distances_and_angles() -> None:
    s, teacher = RNG.normal(0, 2, (6, 3)), RNG.normal(0, 1, (6, 8))
    ds, dt, cs, ct = distances(s), distances(teacher), cosines(s), cosines(teacher)
    far = np.mean([huber(a, b) for a, b in zip(ds.ravel(), dt.ravel(), strict=True)])
    bent = np.mean([huber(cs[k], ct[k]) for k in cs])
    for d, a in ((25.0, 50.0), (1.0, 0.0), (0.0, 1.0)):
        made = relation_loss(t(s), t(teacher), distance=d, angle=a)
        assert float(made) == pytest.approx(d * far + a * bent, rel=1e-9)


def test_relation_ignores_shift_and_scale_and_averages_positions() -> None:
    x = RNG.standard_normal((5, 4, 3, 3))
    assert float(relation_loss(t(x), t(x.mean((2, 3)) * 9 + 2), distance=1, angle=1)) == pytest.approx(
        0, abs=1e-12
    )


def test_relation_by_hand() -> None:
    """A right angle against a straight line, 3-4-5: only cosines at the three corners differ."""
    s, teacher = np.asarray([[0.0, 0], [3, 0], [0, 4]]), np.asarray([[0.0], [3], [-4]])
    # Corner 0: 0 against -1; corner 1 (3-5): 0.6 against 1; corner 2 (4-5): 0.8 against 1; each counted twice of 27.
    wanted = 2 * (huber(0, -1) + huber(0.6, 1) + huber(0.8, 1)) / 27
    assert float(relation_loss(t(s), t(teacher), distance=0, angle=1)) == pytest.approx(wanted)


def test_relations_of_equal_examples_have_finite_gradients() -> None:
    s = t([[1.0, 2.0], [1.0, 2.0], [4.0, 0.0]]).requires_grad_()
    relation_loss(s, t(RNG.standard_normal((3, 2))), distance=25, angle=50).backward()
    assert bool(torch.isfinite(s.grad).all())
    alone = t([[1.0, 2.0]]).requires_grad_()
    loss = relation_loss(alone, t([[3.0, 1.0]]), distance=25, angle=50)
    loss.backward()
    assert float(loss.detach()) == 0, "one example has no relations"
    assert bool(torch.isfinite(alone.grad).all())


# Weighted sums


def sum_of(terms: tuple[LossTerm, ...], **given: Any) -> tuple[float, list[float]]:
    group = Group()
    group.take(4)
    config = TrainConfig(method="losses", losses=terms)
    empty: list[list[Any]] = [[] for _ in terms]
    backward, values = objective(
        config, given["logits"], given["soft"], given["labels"], given.get("features", empty),
        given.get("wanted", empty), group,
    )  # fmt: skip
    assert float(backward) == pytest.approx(float(values[0]), rel=1e-6)
    return float(backward), [float(v) for v in values[1:]]


def test_the_sum_is_weighted_and_the_history_is_not() -> None:
    s, soft = torch.randn(4, 3), torch.randn(4, 3)
    own, theirs, y = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 2, 1, 1])
    terms = (
        loss_term("labels", weight=0.1), loss_term("logits", weight=0.9, temperature=2),
        loss_term("feature", weight=50, pairs=[("a", "b"), ("c", "d")]),
    )  # fmt: skip
    total, parts = sum_of(
        terms, logits=s, soft=soft, labels=y, features=[[], [], [own, own]], wanted=[[], [], [theirs, own]]
    )
    ce = float(torch.nn.functional.cross_entropy(s, y))
    kl = float(soft_target_loss(s, soft, 2))
    mse = float((own - theirs).pow(2).mean())
    assert parts == pytest.approx([ce, 4 * kl, mse], rel=1e-5)
    assert total == pytest.approx(0.1 * ce + 0.9 * 4 * kl + 50 * mse, rel=1e-5)


def test_labels_and_logits_as_losses_are_hintons() -> None:
    from edgekd.distill.losses import distillation_loss

    s, soft, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    total, _ = sum_of(
        (loss_term("labels", weight=0.3), loss_term("logits", weight=0.7, temperature=3)),
        logits=s,
        soft=soft,
        labels=y,
    )
    config = TrainConfig(method="logits", alpha=0.7, temperature=3)
    assert total == pytest.approx(float(distillation_loss(s, soft, y, config)), rel=1e-6)


def test_names_are_numbered_where_a_loss_comes_twice() -> None:
    terms = (loss_term("logits", temperature=1), loss_term("labels"), loss_term("logits", temperature=8))
    assert term_names(TrainConfig(method="losses", losses=terms)) == ("logits 1", "labels", "logits 2")


# Terms


def test_usual_settings_are_filled_in_and_shown() -> None:
    assert loss_term("logits").to_json() == {"loss": "logits", "weight": 1, "temperature": 4}
    assert loss_term("dist", gamma=2).to_json() == {
        "loss": "dist", "weight": 1, "beta": 1, "gamma": 2, "temperature": 1,
    }  # fmt: skip
    assert loss_term("relation", weight=2, pairs=[("a", "b")]).to_json() == {
        "loss": "relation", "weight": 2, "distance": 25, "angle": 50, "pairs": [{"student": "a", "teacher": "b"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "hint"}, "there is no loss 'hint'; choose one of labels, logits"),
        ({"loss": "feature", "temperature": 2, "pairs": [("a", "b")]}, "feature takes no temperature; it takes weight, pairs"),
        ({"loss": "logits", "pairs": [("a", "b")]}, "logits takes no pairs; it takes weight, temperature"),
        ({"loss": "attention"}, "the loss attention names no layers"),
        ({"loss": "dist", "beta": 0, "gamma": 0}, "both parts of the loss dist have weight 0"),
    ],
)  # fmt: skip
def test_terms_that_mean_nothing(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loss_term(**given)


def test_something_must_look_at_the_answers() -> None:
    with pytest.raises(UsageError, match="nothing in the losses looks at the answers, only feature"):
        check_terms([loss_term("feature", pairs=[("a", "b")])])


def test_older_trainings_keep_their_key() -> None:
    assert not {"losses", "optimizer", "views", "top_k"} & set(TrainConfig(method="logits").to_json())
    made = TrainConfig(method="losses", losses=(loss_term("labels"),), optimizer="adamw").to_json()
    assert made["losses"] == [{"loss": "labels", "weight": 1}]
    assert made["optimizer"] == "adamw"
    assert math.isclose(made["momentum"], 0.9)
