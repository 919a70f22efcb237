"""A bundle shown: its tree, its bill of materials by an independent validator, and two releases compared byte for byte.

The validator is CycloneDX's own JavaScript library from npm, which shares no code with the Python one that writes the
document; it is installed into a temporary folder. ``python bench/release/bundle.py --out docs/results`` writes bundle.md.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from fixtures_release import make_rich_run

from edgekd.release import release
from edgekd.release.verify import verify

VALIDATOR = "@cyclonedx/cyclonedx-library@10.3.0"
#: What that library validates JSON with.
NEEDED = ("ajv@8.20.0", "ajv-formats@3.0.1", "ajv-formats-draft2019@1.6.1")
_SCRIPT = """
import {Validation, Spec} from '@cyclonedx/cyclonedx-library'
import fs from 'fs'
const validator = new Validation.JsonStrictValidator(Spec.Version.v1dot6)
const answers = {}
for (const path of process.argv.slice(2)) {
  const found = await validator.validate(fs.readFileSync(path, 'utf8'))
  answers[path] = found === null ? '' : `${found[0].instancePath} ${found[0].message}`
}
console.log(JSON.stringify(answers))
"""

#: What a validator must refuse, so that its silence about the document says something.
SPOILT: dict[str, Callable[[Any], object]] = {
    "an unknown key in the model card": lambda d: d["metadata"]["component"]["modelCard"].update(extra=1),
    "an approach that is none": lambda d: d["metadata"]["component"]["modelCard"]["modelParameters"]["approach"].update(type="taught"),
    "a figure that is no text": lambda d: d["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0].update(value=0.5),
    "a hash of 3 digits": lambda d: next(c for c in d["components"] if "hashes" in c)["hashes"][0].update(content="abc"),
    "an SPDX id that is none": lambda d: next(c for c in d["components"] if c["type"] == "data")["licenses"][0]["license"].update(id="CC-BY-9"),
    "a serial number that is no UUID": lambda d: d.update(serialNumber="urn:uuid:1"),
}  # fmt: skip


def ask_validator(paths: list[Path], place: Path) -> dict[str, str]:
    """Path -> what the JavaScript library objects to; empty where it accepts the document."""
    (place / "package.json").write_text('{"type": "module"}')
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", VALIDATOR, *NEEDED], cwd=place, check=True
    )
    (place / "validate.mjs").write_text(_SCRIPT)
    done = subprocess.run(
        ["node", "validate.mjs", *map(str, paths)], cwd=place, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout))


def tree(bundle: Path) -> list[str]:
    """Every file with its size, folders indented; evidence by count."""
    lines = [f"{bundle.name}/"]
    for path in sorted(bundle.rglob("*"), key=lambda p: p.relative_to(bundle).parts):
        parts = path.relative_to(bundle).parts
        if parts[0] == "evidence" and len(parts) > 1:
            continue
        indent = "  " * len(parts)
        if path.is_file():
            lines.append(f"{indent}{path.name}  ({path.stat().st_size:,} bytes)")
        elif parts[0] == "evidence":
            lines.append(f"{indent}{path.name}/  ({sum(p.is_file() for p in path.rglob('*'))} files)")
        else:
            lines.append(f"{indent}{path.name}/")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for bundle.md")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        digests = []
        for name in ("one", "two"):
            make_rich_run(place / name / "run")
            bundle = release(place / name / "run", place / name / "bundle")
            digests.append(hashlib.sha256((place / name / "bundle.tar").read_bytes()).hexdigest())
        files = verify(bundle).files
        document = json.loads((bundle / "bom.cdx.json").read_text())
        paths = {"the bundle's own": bundle / "bom.cdx.json"}
        for k, (what, spoil) in enumerate(SPOILT.items()):
            spoilt = copy.deepcopy(document)
            spoil(spoilt)
            paths[what] = place / f"spoilt-{k}.json"
            paths[what].write_text(json.dumps(spoilt))
        (place / "npm").mkdir()
        said = ask_validator(list(paths.values()), place / "npm")
        rows = [
            f"| {what} | {'refused: ' + said[str(p)].replace('|', chr(92) + '|') if said[str(p)] else 'valid'} |"
            for what, p in paths.items()
        ]
        if said[str(paths["the bundle's own"])] or not all(said[str(paths[what])] for what in SPOILT):
            raise SystemExit("\n".join(rows))
        text = _PAGE.format(
            tree="\n".join(tree(bundle)), files=files, rows="\n".join(rows), validator=VALIDATOR, ajv=NEEDED[0],
            one=digests[0], two=digests[1], same="the same" if digests[0] == digests[1] else "DIFFERENT",
        )  # fmt: skip
    (out / "bundle.md").write_text(text, encoding="utf-8")


_PAGE = """# A bundle, its tree and its bill of materials

Written by `bench/release/bundle.py`, from a synthetic run with a Llama 3.1 teacher, data under CC BY 4.0, a recipe and
an INT8 student:

```bash no-run
python bench/release/bundle.py --out docs/results
```

## The tree

`edgekd verify` finds {files} files, all as released.

```text
{tree}
```

## The bill of materials

Written with cyclonedx-python-lib, and validated in the tests by that library's strict JSON validator. Here by another
implementation, CycloneDX's JavaScript library (`{validator}`, strict validator of 1.6, on `{ajv}`), which shares no code
with it; documents that were spoilt on purpose show that it looks:

| document | answer |
|---|---|
{rows}

## Twice the same

The run was made and released in two folders. SHA-256 of the two archives: {same}.

```text
{one}
{two}
```
"""


if __name__ == "__main__":
    main()
