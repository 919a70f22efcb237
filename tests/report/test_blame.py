"""Which hop is to blame: every branch says what the bounds allow, and no more."""

import pytest

from edgekd.report.blame import blame, hop_costs
from edgekd.report.chain import ChainRow, ChainTable, Difference, NaiveControl


def difference(estimate, half=0.002):
    return Difference(
        estimate=estimate, interval=None if half is None else (estimate - half, estimate + half)
    )


def table(steps, *, total=None, half=0.002, naive=None, ends=None, n=1000):
    """A straight chain; ``steps`` in points."""
    names = ("distillation", "export", "int8 quantization", "the runtime on cpu:x")
    rows = [ChainRow(hop="teacher", label="teacher", mean=0.9, n=n, to_teacher=None, step=None, step_from="")]
    so_far = 0.0
    for index, step in enumerate(steps):
        so_far += step / 100
        rows.append(
            ChainRow(
                hop=names[index], label=f"hop {index}", mean=0.9 + so_far, n=n, what=names[index], parent=index,
                to_teacher=difference(so_far), step=difference(step / 100, half), step_from=rows[-1].label,
            )
        )  # fmt: skip
    if total is not None:
        rows[-1] = ChainRow(**{f: getattr(rows[-1], f) for f in ChainRow.__slots__} | {"to_teacher": total})
    return ChainTable(
        metric="top1", split="test", rows=tuple(rows), naive=naive, ends=(len(rows) - 1,) if ends is None else ends
    )  # fmt: skip


def test_the_hop_that_lost_most_and_its_share():
    assert blame(table([-0.6, 0.0, -0.2, 0.0])) == (
        "Distillation is to blame: it cost 0.60 points [0.40, 0.80], 75 % of the 0.80 points lost from the teacher to "
        "'hop 3'."
    )
    # Both are told from zero; the greater one is named, and that there was another is said.
    assert blame(table([-0.3, 0.0, -0.5, 0.0])).startswith(
        "Int8 quantization is to blame, the most of 2 hops that lost: it cost 0.50 points [0.30, 0.70], 62 % of"
    )


def test_a_greater_estimate_without_a_bound_to_hold_it_is_not_blamed():
    chain = table([-0.6, 0.0, -0.3, 0.0])
    rows = list(chain.rows)
    rows[1] = ChainRow(
        **{f: getattr(rows[1], f) for f in ChainRow.__slots__} | {"step": difference(-0.006, 0.01)}
    )
    said = blame(ChainTable(metric="top1", split="test", rows=tuple(rows), naive=None, ends=(4,)))
    assert said.startswith("Int8 quantization is to blame: it cost 0.30 points")


def test_more_than_the_whole():
    assert blame(table([-0.8, 0.3])) == (
        "Distillation is to blame: it cost 0.80 points [0.60, 1.00], more than the 0.50 points lost from the teacher to "
        "'hop 1', for other hops gained."
    )


def test_a_total_that_is_not_told_from_zero_says_so():
    said = blame(table([-0.3], total=difference(-0.003, 0.004)))
    assert said.endswith(
        "100 % of the 0.30 points lost from the teacher to 'hop 0', a total that cannot be told from zero."
    )


@pytest.mark.parametrize(
    ("gained", "ended"), [(0.9, "is 0.50 points above the teacher"), (0.4, "is on a par with the teacher")]
)
def test_a_loss_that_the_rest_of_the_chain_makes_good(gained, ended):
    total = difference(round((gained - 0.4) / 100, 6))
    assert blame(table([gained, -0.4], total=total)) == (
        f"Export is to blame: it cost 0.40 points [0.20, 0.60], though 'hop 1' {ended} all told."
    )


def test_nothing_told_from_zero():
    assert blame(table([-0.1, 0.05], half=0.003, total=difference(-0.0005, 0.003))) == (
        "No hop can be blamed: no loss can be told from zero on 1,000 examples, neither a hop's nor that from the "
        "teacher to 'hop 1' (-0.05 [-0.35, +0.25] points)."
    )


def test_a_loss_of_which_no_hop_is_told():
    assert blame(table([-0.15, -0.15], total=difference(-0.003))) == (
        "0.30 points [0.10, 0.50] were lost from the teacher to 'hop 1', but no single hop's loss can be told from zero "
        "on 1,000 examples."
    )


def test_a_chain_that_gains():
    assert blame(table([0.5, 0.0])) == (
        "The chain gains: 'hop 1' is 0.50 points [0.30, 0.70] above the teacher, and no hop's loss can be told from zero."
    )


def test_without_bounds_nobody_is_blamed():
    assert "no hop to 'hop 1' can be blamed" in blame(table([-5, 0], half=None)).lower()
    assert "can be blamed" in blame(table([-5, 0], total=difference(-0.05, None)))
    assert "is to blame" not in blame(table([-5, 0], half=None))


def test_a_chain_without_a_student():
    assert blame(table([], ends=())) == ""
    assert hop_costs(table([], ends=())) == []


def test_the_target_that_lost_most_is_told():
    chain = table([-0.3, -0.9], ends=(1, 2))
    assert "Export is to blame" in blame(chain)
    assert hop_costs(chain) == [
        "Distillation cost 0.30 points ('hop 0').",
        "Distillation cost 0.30 points, export cost 0.90 ('hop 1').",
    ]


@pytest.mark.parametrize(
    ("seeds", "best", "said"),
    [
        (1, difference(0.012), "; against one naive student of the same network, trained without the teacher (80.00 %), "
         "distillation is +1.20 [+1.00, +1.40] points."),
        (3, difference(0.012), "(mean 80.00 %, 79.00 % to 81.00 %), distillation is +2.00 over their mean and +1.20 "
         "[+1.00, +1.40] points over the best."),
        (3, difference(0.001), "+0.10 [-0.10, +0.30] points over the best, which cannot be told from zero."),
        (3, difference(-0.01), "-1.00 [-1.20, -0.80] points over the best."),
    ],
)  # fmt: skip
def test_what_distillation_gained_over_the_controls(seeds, best, said):
    control = NaiveControl(
        seeds=seeds, mean=0.8, best=0.81, worst=0.79, distilled=0.82, gain_over_mean=0.02, gain_over_best=best
    )
    found = blame(table([-0.6], naive=control))
    assert found.startswith("Distillation is to blame")
    assert found.endswith(said)


def test_a_hop_that_changed_nothing_has_no_bounds_and_hinders_no_blame():
    """The same answers give the bootstrap nothing to resample: an exact zero, without bounds."""
    chain = table([-0.6, 0.0])
    rows = list(chain.rows)
    rows[2] = ChainRow(
        **{f: getattr(rows[2], f) for f in ChainRow.__slots__} | {"step": difference(0.0, None)}
    )
    said = blame(ChainTable(metric="mae", split="test", rows=tuple(rows), naive=None, ends=(2,)))
    assert said.startswith("Distillation is to blame: it cost 0.60 points")
    assert blame(table([0.0], half=None, total=difference(0.0, None))).startswith("No hop can be blamed")
    assert "not every hop has a difference with bounds" in blame(table([-0.6], half=None))


def test_one_example_is_no_plural():
    assert "on 1 example," in blame(table([0.0], n=1))
    assert "on 2 examples," in blame(table([0.0], n=2))
