"""The blocks of a recipe that say how to train: ``teacher.train`` and ``distill``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from edgekd.distill.terms import PAIRED, LossTerm, check_terms, loss_term
from edgekd.errors import UsageError
from edgekd.policy import Block, Positive

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Block(BaseModel):
    model_config = Block.model_config


class TrainBlock(_Block):
    """Training of a teacher (``teacher.train``) or a student (``distill``)."""

    epochs: Annotated[int, Field(ge=1)] = 20
    batch: Annotated[int, Field(ge=1)] = 128
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Fraction = 0.1
    augment: list[Literal["crop2", "crop4", "shift1", "flip"]] = []
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, Field(ge=0)] = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"


class LayerPair(_Block):
    """A module of the student and the module of the teacher that it is compared with, by name."""

    student: str
    teacher: str


class LossBlock(_Block):
    """One term of ``distill.losses``; see :class:`edgekd.distill.terms.LossTerm`."""

    loss: Literal["labels", "logits", "dist", "feature", "attention", "relation"]
    weight: Positive = 1.0
    temperature: Positive | None = None
    beta: Annotated[float, Field(ge=0)] | None = None
    gamma: Annotated[float, Field(ge=0)] | None = None
    distance: Annotated[float, Field(ge=0)] | None = None
    angle: Annotated[float, Field(ge=0)] | None = None
    pairs: list[LayerPair] = []

    @model_validator(mode="after")
    def _means_something(self) -> LossBlock:
        try:
            _ = self.as_term
        except UsageError as e:
            raise ValueError(str(e)) from e
        return self

    @property
    def as_term(self) -> LossTerm:
        """The term with its settings."""
        given = self.model_dump(exclude={"loss", "weight", "pairs"})
        pairs = [(p.student, p.teacher) for p in self.pairs]
        return loss_term(self.loss, weight=self.weight, pairs=pairs, **given)


class FakeQuantBlock(_Block):
    """``distill.fake_quant:`` quantization-aware training; see :class:`edgekd.distill.fake_quant.FakeQuantConfig`."""

    dtype: Literal["int8"] = "int8"
    granularity: Literal["channel", "tensor"] = "channel"
    variant: Literal["cpu", "tensorrt"] = "cpu"
    start: Annotated[float, Field(ge=0, lt=1)] = 0.5
    freeze: Fraction = 0.8

    @model_validator(mode="after")
    def _in_order(self) -> FakeQuantBlock:
        if self.freeze < self.start:
            raise ValueError(
                f"freezes ranges at {self.freeze:g}, before it starts at {self.start:g}: raise `freeze`"
            )
        return self


class DistillBlock(TrainBlock):
    """``distill:`` how the student learns from the teacher."""

    method: Literal["logits", "labels"] = "logits"
    temperature: Positive = 4.0
    alpha: Fraction = 0.9
    views: Annotated[int, Field(ge=0)] = 0
    top_k: Annotated[int, Field(ge=0)] = 0
    losses: list[LossBlock] = []
    fake_quant: FakeQuantBlock | None = None

    @model_validator(mode="after")
    def _fits(self) -> DistillBlock:
        both = sorted({"method", "temperature", "alpha"} & self.model_fields_set)
        if self.losses and both:
            raise ValueError(
                f"names `losses` and `{both[0]}`; what is in `losses` is all there is: choose one"
            )
        try:
            check_terms([t.as_term for t in self.losses])
        except UsageError as e:
            raise ValueError(str(e)) from e
        inner = [t.loss for t in self.losses if t.loss in PAIRED]
        if inner and self.views:
            raise ValueError(
                f"keeps the teacher's logits alone (`views`), and the loss {inner[0]} asks for its layers in every step: "
                "remove one"
            )
        if inner and self.fake_quant is not None:
            raise ValueError(
                f"trains with `fake_quant`, whose traced network has no layers inside for the loss {inner[0]}: remove one"
            )
        if self.top_k and not self.views:
            raise ValueError("asks to keep the `top_k` of logits that are not kept: give `views` too")
        return self
