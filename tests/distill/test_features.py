"""Layers by name: found, kept, paired or refused."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.distill.features import Taps, answer_of, layer_names, per_term, projections
from edgekd.distill.terms import loss_term
from edgekd.errors import ModelError, UsageError

torch = pytest.importorskip("torch")


def network() -> Any:
    net = torch.nn.Sequential()
    net.add_module("layer1", torch.nn.Linear(4, 3))
    net.add_module("layer2", torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(3, 2)))
    return net


def test_what_a_layer_made_is_kept_once_and_the_network_left_as_it_was() -> None:
    net = network()
    taps = Taps(net, ["layer2.0", "layer1", "layer1"], "student")
    x = torch.randn(5, 4)
    net(x)
    relu, first, again = taps.take()
    torch.testing.assert_close(first, net.layer1(x))
    assert again is first
    torch.testing.assert_close(relu, first.relu())
    taps.remove()
    net(x)
    with pytest.raises(ModelError, match=r"layer 'layer2.0' of the student was not called"):
        taps.take()


def test_what_is_done_in_place_afterwards_does_not_count() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(inplace=True))
    taps = Taps(net, ["0"], "student")
    x = torch.randn(5, 4)
    net(x)
    (found,) = taps.take()
    torch.testing.assert_close(found, torch.nn.functional.linear(x, net[0].weight, net[0].bias))
    assert (found < 0).any()


def test_a_layer_that_is_called_twice_is_refused() -> None:
    act = torch.nn.Tanh()
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), act, torch.nn.Linear(4, 4), act)
    taps = Taps(net, ["1"], "teacher")
    with pytest.raises(ModelError, match="layer '1' of the teacher is called more than once; name another"):
        net(torch.zeros(1, 4))
    taps.remove()
    Taps(net, ["0"], "teacher")
    for _ in range(2):  # two passes, not two calls in one
        net(torch.zeros(1, 4))


class Series(torch.nn.Module):
    """Convolutions of series, then tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = torch.nn.Conv1d(2, 6, 3), torch.nn.BatchNorm1d(6), torch.nn.ReLU()
        self.block = torch.nn.Sequential(torch.nn.MaxPool1d(2), torch.nn.ReLU())
        self.linear = torch.nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        return self.linear(self.block(self.act(self.norm(self.conv(x)))).transpose(1, 2))


def test_series_are_kept_as_tokens_are() -> None:
    net = Series().eval()
    taps = Taps(net, ["conv", "norm", "block", "linear"], "student")
    x = torch.randn(3, 2, 10)
    answer = net(x)
    conv, norm, block, linear = taps.take()
    assert conv.shape == norm.shape == (3, 8, 6)
    assert (block.shape, linear.shape) == ((3, 4, 6), (3, 4, 5))
    torch.testing.assert_close(conv, net.conv(x).transpose(1, 2))
    torch.testing.assert_close(linear, answer)
    # Channels may differ, and are what a projector maps.
    terms = (loss_term("feature", pairs=[("conv", "conv")]),)
    assert projections(terms, [conv], [torch.zeros(3, 8, 9)]) == {0: (6, 9, 3)}


def test_a_layer_that_does_not_say_which_it_makes_is_refused() -> None:
    Taps(net := Series(), ["act"], "student")
    with pytest.raises(ModelError, match=r"layer 'act' of the student \(ReLU\) makes \(6, 8\), which may be"):
        net(torch.zeros(3, 2, 10))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layr1", "the student has no layer 'layr1'; did you mean 'layer1'"),
        ("zzz", "the student has no layer 'zzz'; it has layer1, layer2 and what is inside them"),
        ("", "the student has no layer ''"),
    ],
)
def test_unknown_layers(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Taps(network(), [name], "student")


def test_features_go_to_their_terms() -> None:
    terms = (
        loss_term("labels"), loss_term("feature", pairs=[("a", "b"), ("c", "d")]), loss_term("attention", pairs=[("e", "f")]),
    )  # fmt: skip
    assert layer_names(terms) == (["a", "c", "e"], ["b", "d", "f"])
    assert per_term(terms, [1, 2, 3]) == [[], [1, 2], [3]]


def pair(loss: str, own: tuple[int, ...], theirs: tuple[int, ...]) -> dict[int, tuple[int, int, int]]:
    terms = (loss_term(loss, pairs=[("mine", "yours")]),)
    return projections(terms, [torch.zeros(2, *own)], [torch.zeros(2, *theirs)])


def test_projectors_where_widths_differ() -> None:
    assert pair("feature", (8, 4, 4), (8, 4, 4)) == {}
    assert pair("feature", (8, 4, 4), (16, 4, 4)) == {0: (8, 16, 4)}
    assert pair("feature", (10, 8), (10, 16)) == {0: (8, 16, 3)}
    assert pair("feature", (8,), (16,)) == {0: (8, 16, 2)}
    assert pair("attention", (8, 4, 4), (16, 4, 4)) == {}
    assert pair("relation", (8, 4, 4), (7,)) == {}


@pytest.mark.parametrize(
    ("loss", "own", "theirs"),
    [
        ("feature", (8, 4, 4), (8, 2, 2)), ("feature", (10, 8), (11, 8)), ("feature", (8,), (8, 4, 4)),
        ("attention", (8,), (8,)), ("attention", (8, 4, 4), (8, 4, 5)), ("relation", (), (8,)),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_named(loss: str, own: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as e:
        pair(loss, own, theirs)
    assert (
        f"the student's 'mine' {own} and the teacher's 'yours' {theirs} cannot be paired for {loss}"
        in str(e.value)
    )


def test_logits_of_what_networks_return() -> None:
    x = torch.zeros(2, 3)
    for made in (x, (x, None), [x], {"loss": None, "logits": x}, {"out": x}):
        assert answer_of(made) is x
    with pytest.raises(ModelError, match="returns str, not logits"):
        answer_of("no")
