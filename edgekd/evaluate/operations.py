"""What an evaluating child does: run a model over a split and keep one row per example. numpy and one runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgekd.child.sessions import open_session, placement_json
from edgekd.data.example import Array, Example
from edgekd.errors import DataError, EdgeKDError, ModelError
from edgekd.spec import TensorSpec, stack_feeds
from edgekd.target import Session
from edgekd.tasks import ModelIO, Prediction, Task, TaskSpec, build_task, check_scores

Reply = tuple[dict[str, Any], list[Array]]


def batches(
    task: Task, split: str, io: ModelIO, size: int
) -> Iterator[tuple[list[Example], list[Mapping[str, Array]]]]:
    """Examples with their feeds, ``size`` at a time; feeds of other shapes start a new batch."""
    examples: list[Example] = []
    feeds: list[Mapping[str, Array]] = []
    for example in task.examples(split):
        with named(example), blamed_on_the_task(f"preparing example {example.id}"):
            prepared = task.prepare(example, io)
        same = not feeds or all(prepared[k].shape == v.shape for k, v in feeds[0].items())
        if examples and (len(examples) >= size or not same):
            yield examples, feeds
            examples, feeds = [], []
        examples.append(example)
        feeds.append(prepared)
    if examples:
        yield examples, feeds


#: Prepared examples that a child keeps for the next evaluation, at most.
KEPT_BYTES = 1 << 29

Batches = Iterator[tuple[list[Example], list[Mapping[str, Array]]]]


def kept_batches(
    state: dict[str, Any], args: Mapping[str, Any], io: ModelIO, size: int
) -> tuple[Task, Batches]:
    """The task, and its :func:`batches`; both are remembered in ``state`` where ``args["again"]`` asks for that.

    A task may know from preparing an example how to decode it, so that the two stay together.
    """
    known = state.setdefault("batches", {})
    asked = [args[k] for k in ("task", "split", "role", "prepare", "output", "rename")]
    key = json.dumps([*asked, [s.to_json() for s in (*io.inputs, *io.outputs)], size], sort_keys=True)
    if key in known:
        task, made = known[key]
        return task, iter(made)
    task = build_task(TaskSpec.from_json(args["task"]))
    found = batches(task, args["split"], io, size)
    return task, _keeping(known, key, task, found) if args.get("again") else found


def kept_session(state: dict[str, Any], args: Mapping[str, Any]) -> tuple[Session, int]:
    """A session, and the nanoseconds that opening it took; the last one where ``args["again"]`` asks for the same."""
    asked = ("runtime", "path", "digest", "device", "provider", "threads", "settings")
    key = json.dumps([args.get(k) for k in asked], sort_keys=True)
    last = state.pop("evaluated", None)
    if last is not None and last[0] == key:
        state["evaluated"] = last
        return last[1], last[2]
    del last  # before the next one is opened: memory holds one
    session, load_ns = open_session(dict(args))
    if args.get("again"):
        state["evaluated"] = (key, session, load_ns)
    return session, load_ns


def _keeping(known: dict[str, Any], key: str, task: Task, found: Batches) -> Batches:
    made: list[tuple[list[Example], list[Mapping[str, Array]]]] = []
    room = KEPT_BYTES - sum(_weight(*batch) for _, kept in known.values() for batch in kept)
    for batch in found:
        room -= _weight(*batch)
        if room >= 0:
            made.append(batch)
        else:
            made.clear()
        yield batch
    if room >= 0:
        known[key] = (task, made)


def _weight(examples: Sequence[Example], feeds: Sequence[Mapping[str, Array]]) -> int:
    return sum(a.nbytes for one in (*feeds, *(e.inputs for e in examples)) for a in one.values())


def run_batch(
    session: Session, feeds: Sequence[Mapping[str, Array]], fixed: int | None
) -> list[dict[str, Array]]:
    """Run several examples at once and take the outputs apart again; one by one where they cannot be.

    Args:
        feeds: per example, each with a leading batch dimension of 1.
        fixed: the only batch size that the model takes, else None; a short batch is padded with its last example.

    Raises:
        ModelError: an output of a fixed batch has no batch dimension to take apart.
    """
    size = fixed or len(feeds)
    outputs = session.run(stack_feeds(feeds, size))
    if size == 1:
        return [outputs]
    for name, value in outputs.items():
        if value.ndim == 0 or value.shape[0] % size:
            if fixed is None:
                return [session.run(dict(f)) for f in feeds]
            raise ModelError(
                f"output '{name}' has shape {tuple(value.shape)} for a batch of {size}",
                "its first dimension must be the batch: export the model with batch 1",
            )
    return [
        {n: v[i * (len(v) // size) : (i + 1) * (len(v) // size)] for n, v in outputs.items()}
        for i in range(len(feeds))
    ]


def batch_size(inputs: Sequence[TensorSpec], asked: int) -> tuple[int, int | None]:
    """Examples per call, and the fixed batch of a model that takes only one.

    >>> batch_size([TensorSpec(name="x", dtype="float32", shape=("n", 3))], 64)
    (64, None)
    """
    fixed = {s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], int)}
    if not fixed:
        return asked, None
    size = int(next(iter(fixed)))
    return size, size


def model_io(args: Mapping[str, Any], session: Session) -> ModelIO:
    """What the task sees of an opened session."""
    return ModelIO(
        role=args["role"],
        inputs=tuple(session.inputs),
        outputs=tuple(session.outputs),
        prepare=args["prepare"],
        output=args["output"],
        rename=args["rename"],
    )


@contextmanager
def blamed_on_the_task(doing: str) -> Iterator[None]:
    """Turn what a user's own task raises into one line about it; our own errors pass.

    Raises:
        DataError: with the exception's type and message.
    """
    try:
        yield
    except (EdgeKDError, MemoryError):
        raise
    except Exception as e:
        text = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise DataError(
            f"the task raised while {doing} ({text})", "mend the task, or the data that it met"
        ) from e


@contextmanager
def named(example: Example) -> Iterator[None]:
    """Say which example an error of the data is about, where it does not.

    Raises:
        DataError: with the example's id.
    """
    try:
        yield
    except DataError as e:
        if f"example {example.id}" in e.what:
            raise
        raise DataError(f"example {example.id}: {e.what}", e.fix) from e


def decode_one(task: Task, example: Example, outputs: Mapping[str, Array], io: ModelIO) -> Prediction:
    """One example's answer; a task with ``decode_for`` is shown the example that it belongs to.

    Words that a tokenizer has split, or boxes in a resized image, cannot be read from the outputs alone.
    """
    decode_for = getattr(task, "decode_for", None)
    return decode_for(example, outputs, io) if decode_for else task.decode(outputs, io)


def _blame_the_data(example: Example, error: DataError) -> None:
    """Where an answer is unusable because the example itself holds NaN, say that instead.

    Raises:
        DataError: naming the array.
    """
    for name, array in example.inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"example {example.id}: the array '{name}' holds NaN or infinite values",
                "mend or drop the row",
            ) from error


def evaluate_rows(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Evaluate one artifact on one split; writes the rows to ``args["rows"]``.

    Raises:
        DataError: no examples, no labels, duplicated ids, feeds or outputs that do not fit, NaN.
    """
    session, load_ns = kept_session(state, args)
    io = model_io(args, session)
    size, fixed = batch_size(session.inputs, args["batch"])
    task, found = kept_batches(state, args, io, size)
    ids: list[str] = []
    labels: list[Any] = []
    predictions: list[Prediction] = []
    slices: dict[str, list[str]] = {}
    for examples, feeds in found:
        for example, outputs in zip(examples, run_batch(session, feeds, fixed), strict=True):
            if example.label is None:
                raise DataError(f"example {example.id} has no label", "add an array `label`, one per example")
            try:
                with named(example), blamed_on_the_task("decoding"):
                    predictions.append(decode_one(task, example, outputs, io))
            except DataError as e:
                _blame_the_data(example, e)
                raise
            if predictions[0].logits is not None:
                own, first = predictions[-1].logits, predictions[0].logits
                if own is None or own.shape != first.shape:
                    raise DataError(
                        f"example {example.id} was answered with other classes", "see the task's decode()"
                    )
            ids.append(example.id)
            labels.append(example.label)
            for name, value in example.slices.items():
                slices.setdefault(name, []).append(value)
    if not ids:
        raise DataError(f"the data for '{args['split']}' is empty", "give at least one example")
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise DataError(
            f"the id {twice!r} is given twice", "ids must be unique: they pair teacher and student"
        )
    for name, values in slices.items():
        if len(values) != len(ids):
            raise DataError(
                f"slice '{name}' is missing for {len(ids) - len(values)} examples", "give it for every row"
            )
    with blamed_on_the_task("scoring"):
        scored = task.score(predictions, labels)
    scores = check_scores(scored, len(ids))
    rows: dict[str, Array] = {
        "id": np.asarray(ids),
        "score": scores.per_example,
        "prediction": np.asarray([p.value for p in predictions]),
        "label": np.asarray(labels),
        **{f"slice_{k}": np.asarray(v) for k, v in slices.items()},
        **{f"stat_{k}": np.asarray(v) for k, v in scores.statistics.items()},
    }
    if cluster := args.get("cluster", ""):
        if cluster not in slices:
            raise DataError(
                f"the data has no column for the cluster '{cluster}' (it has {', '.join(slices) or 'no slice'})",
                f"add slice_{cluster}: one name per example of the group that it belongs to",
            )
        rows["cluster"] = np.asarray(slices[cluster])
    if predictions[0].logits is not None:
        rows["logits"] = np.stack([p.logits for p in predictions if p.logits is not None]).astype(np.float32)
    with open(args["rows"], "wb") as f:
        np.savez(f, **rows)  # type: ignore[arg-type]
    return {
        "n": len(ids),
        "metric": task.metric,
        "aggregate": scores.aggregate,
        "error": scores.error,
        "unit": scores.unit,
        "notes": [str(note) for note in getattr(task, "notes", ())],
        "placement": placement_json(session),
        "load_ns": load_ns,
    }, []
