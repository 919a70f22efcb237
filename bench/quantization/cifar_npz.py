"""The 5,000 CIFAR-10 test images as one ``.npz``, as a network takes them: what the search and NNCF are compared on.

    python bench/quantization/cifar_npz.py -o cifar.npz --input input_1
    python bench/quantization/cifar_npz.py -o normal.npz --input image --scale 255 --mean 0.485 0.456 0.406 \
        --std 0.229 0.224 0.225

The rows are shuffled (seed 0): in the file the classes take turns, and every second row would hold every second class.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--input", required=True, help="name of the network's input")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels are divided by it")
    parser.add_argument("--mean", type=float, nargs=3, default=(0.0, 0.0, 0.0))
    parser.add_argument("--std", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    args = parser.parse_args()
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    file = Path(os.environ.get("EDGEKD_DATA") or default) / "vision" / "cifar10_testA_jpegq75.npz"
    if not file.is_file():
        parser.error(f"{file} does not exist: set EDGEKD_DATA to the folder that holds vision/")
    with np.load(file) as data:
        order = np.random.default_rng(SEED).permutation(len(data["labels"]))
        images, labels = data["images"][order], data["labels"][order]
    mean, std = (np.asarray(v, np.float32) for v in (args.mean, args.std))
    pixels = (images.astype(np.float32) / np.float32(args.scale) - mean) / std
    rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    np.savez(args.out, **{args.input: rows, "label": labels.astype(np.int64)})  # type: ignore[arg-type]
    print(f"{args.out}: {len(rows):,} rows of {rows.shape[1:]}")


if __name__ == "__main__":
    main()
