"""A file attached to a GitHub release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgekd.ci.api import Api, Reply
from edgekd.ci.github import api_of
from edgekd.errors import InfrastructureError, PolicyError, UsageError
from edgekd.files import sha256_file

LATEST = "latest"


def read_asset(
    tag: str, file: str, target: Path, *, environ: Mapping[str, str], api: Api | None = None
) -> bool:
    """Download the asset ``file`` of a release to ``target``.

    Args:
        tag: the release's tag, or ``latest``.
        file: the asset's name.
        target: the file to write.
        environ: GITHUB_REPOSITORY, and GITHUB_API_URL and a token where they are set.

    Returns:
        False where the release has no such asset, or ``latest`` is asked and nothing was released yet.

    Raises:
        UsageError: no repository is named, it cannot be seen, or it has no release ``tag``.
        InfrastructureError: the API or the download failed.
        PolicyError: the file is not the one that the release lists.
    """
    api = api or api_of(environ)
    repository = environ.get("GITHUB_REPOSITORY", "")
    if repository.count("/") != 1:
        raise UsageError(
            f"a release baseline needs GITHUB_REPOSITORY=owner/name, got {repository!r}",
            "set it outside GitHub Actions",
        )
    release = _release(api, repository, tag)
    if release is None:
        return False
    for asset in api.pages(f"repos/{repository}/releases/{release['id']}/assets?per_page=100"):
        if isinstance(asset, Reply):
            raise InfrastructureError(
                f"the assets of release {tag} cannot be listed ({asset.status} {asset.message})",
                "run the job again",
            )
        if asset.get("name") == file and asset.get("state", "uploaded") == "uploaded":
            _download(api, repository, asset, target)
            return True
    return False


def _release(api: Api, repository: str, tag: str) -> dict[str, Any] | None:
    which = LATEST if tag == LATEST else f"tags/{quote(tag, safe='')}"
    reply = api.request("GET", f"repos/{repository}/releases/{which}")
    found = reply.json()
    if reply.status == 200 and isinstance(found, dict) and "id" in found:
        return found
    if reply.status != 404:
        raise UsageError(
            f"release {tag} of {repository} cannot be read ({reply.status} {reply.message})",
            "give the job a token with `contents: read`",
        )
    # 404 also hides what a token may not see.
    if api.request("GET", f"repos/{repository}").status != 200:
        raise UsageError(
            f"the repository {repository} cannot be seen with this token",
            "give the job a token with `contents: read`",
        )
    if tag == LATEST:
        return None
    raise UsageError(f"{repository} has no release {tag}", "correct the tag, or name release:latest:FILE")


def _download(api: Api, repository: str, asset: Mapping[str, Any], target: Path) -> None:
    size = asset.get("size")
    refusal = api.download(
        f"repos/{repository}/releases/assets/{asset['id']}", target,
        accept="application/octet-stream", size_bytes=size if isinstance(size, int) else None,
    )  # fmt: skip
    if refusal is not None:
        raise InfrastructureError(
            f"the release asset {asset['name']} cannot be downloaded ({refusal.status} {refusal.message})",
            "run the job again",
        )
    listed = asset.get("digest")
    if isinstance(listed, str) and listed.startswith("sha256:") and listed != f"sha256:{sha256_file(target)}":
        target.unlink()
        raise PolicyError(
            f"the release asset {asset['name']} is not the file that the release lists ({listed[:19]}…)",
            "upload it again",
        )
