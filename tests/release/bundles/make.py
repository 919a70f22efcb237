"""Make a bundle that later versions must go on verifying: NAME.tar, and NAME.pub where it is signed.

    python tests/release/bundles/make.py edgekd-0.1.0
    python tests/release/bundles/make.py edgekd-0.1.0-b3168cb --code ../worktree

Once per released version, with the code of that version; what is committed is never made again. The private key is
thrown away. The student is a network of 20 kB that answers as its teacher; its data are ``examples(150)`` of
tests/fixtures_models.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]

#: A licence text to keep, a notice to show, and a person who takes one rule upon themselves.
DECLARED = """
teacher: {name: A/Teacher, licence: apache-2.0, source: "https://example.org/t", access: weights, licence_file: LICENSE}
data:
  - {name: Pictures, licence: cc-by-4.0, source: "https://example.org/d", attribution: Ada Example}
  - {name: Drawings, licence: none-stated, source: "https://example.org/e"}
waivers: [{rule: data-licence-unknown, by: Ada Example, reason: a fixture, expires: 2027-12-31}]
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument(
        "--code", type=Path, default=REPOSITORY, help="a checkout of the version that releases"
    )
    args = parser.parse_args()
    code = args.code.resolve()
    path = os.pathsep.join(str(p) for p in (code, code / "exporters", code / "devices"))
    environ = {**os.environ, "PYTHONPATH": path, "EDGEKD_TRUSTED_KEYS": ""}
    signs = (code / "edgekd" / "release" / "signing.py").is_file()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ["EDGEKD_CACHE"] = str(folder / "cache")

        def run(*command: str) -> None:
            subprocess.run(command, cwd=folder, env=environ, check=True)

        edgekd = (sys.executable, "-m", "edgekd")
        sys.path.append(str(REPOSITORY / "tests"))
        import numpy as np
        from fixtures_models import classifier, examples

        classifier(folder / "teacher.onnx", layers=1)
        classifier(folder / "student.onnx", layers=0)
        np.savez(folder / "test.npz", **examples(150))
        (folder / "declared.yaml").write_text(DECLARED)
        (folder / "LICENSE").write_text("A licence text of two lines,\nwith a copyright line.\n")
        run(
            *edgekd, "gate", "--teacher", "teacher.onnx", "--student", "student.onnx", "--data", "test.npz",
            "--max-accuracy-drop", "0.1", "--max-size-mib", "1", "--out", "run",
        )  # fmt: skip
        more: tuple[str, ...] = ()
        if signs:
            run(
                "openssl",
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                "key.pem",
            )
            run("openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "key.pub")
            (folder / "key.pem").chmod(0o600)
            more = ("--provenance", "declared.yaml", "--key", "key.pem")
        run(*edgekd, "release", "run", "-o", args.name, *more)
        run(*edgekd, "verify", f"{args.name}.tar", *(("--key", "key.pub") if signs else ()))
        shutil.copyfile(folder / f"{args.name}.tar", HERE / f"{args.name}.tar")
        if signs:
            shutil.copyfile(folder / "key.pub", HERE / f"{args.name}.pub")
    print(HERE / f"{args.name}.tar")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
