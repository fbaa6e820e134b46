"""ModelScope: its own HTTP API, which huggingface_hub does not speak."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2

from inference.convert.hub.huggingface import unreachable
from inference.convert.hub.snapshot import (
    COMMIT,
    HubRefused,
    NotFound,
    RemoteFile,
    Snapshot,
    TokenRefused,
    Unreachable,
    needed,
)

ENDPOINT = "https://www.modelscope.cn"
TIMEOUT_SECONDS = 20.0
MOST_LISTED = 3000  # the listing is cut off there, without saying so


class ModelScope:
    """One repository at an endpoint that speaks ModelScope's API."""

    def __init__(self, endpoint: str, repository: str, token: str) -> None:
        self._endpoint, self._repository = endpoint, repository
        self._base = f"{endpoint}/api/v1/models/{quote(repository)}"
        # Public repositories take the header, private ones of older servers the session's cookie.
        self._headers = (
            {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
        )

    def snapshot(self, revision: str) -> Snapshot:
        """A branch or tag is resolved to its commit first; every file is asked for at that commit."""
        commit = revision if COMMIT.fullmatch(revision) else self._resolve(revision or "master")
        data = self._ask("repo/files", Revision=commit, Recursive="false")
        listed = data.get("Files") or []
        if len(listed) >= MOST_LISTED:
            raise HubRefused(f"{self._repository} has more files than ModelScope lists")
        files = [self._file(entry, commit) for entry in listed if entry.get("Type") == "blob"]
        return Snapshot(commit, needed(files), self._headers)

    def check(self, response: httpx2.Response) -> None:
        """Raises `HubRefused` for an error response."""
        page = f"{self._endpoint}/models/{self._repository}"
        if response.status_code in (401, 403):
            raise TokenRefused(f"{page} is private or gated: set HUB_TOKEN to a token that may read it")
        if response.status_code == 404:
            raise NotFound(f"{page} does not exist, or not at this commit")
        if response.status_code >= 400:
            raise Unreachable(f"{page} answered {response.status_code}: try again later")

    def _resolve(self, revision: str) -> str:
        data = self._ask("commits", Ref=revision, PageNumber="1", PageSize="1")
        commits = data.get("Commit") or []
        commit = str(commits[0].get("Id", "")) if commits else ""
        if not COMMIT.fullmatch(commit):
            raise NotFound(f"{self._repository} has no branch or tag {revision!r} at {self._endpoint}")
        return commit

    def _ask(self, path: str, **query: str) -> dict[str, Any]:
        try:
            response = httpx2.get(
                f"{self._base}/{path}", params=query, headers=self._headers, timeout=TIMEOUT_SECONDS
            )
            self.check(response)
            answer = response.json()
        except httpx2.TransportError as error:
            raise Unreachable(unreachable(self._endpoint, error)) from error
        except ValueError as error:
            raise HubRefused(f"{self._endpoint} does not speak ModelScope's API (HUB_KIND)") from error
        if not isinstance(answer, dict) or not answer.get("Success"):
            said = answer.get("Message", "") if isinstance(answer, dict) else ""
            raise NotFound(f"{self._endpoint} does not give {self._repository}: {said}")
        return answer.get("Data") or {}

    def _file(self, entry: dict[str, Any], commit: str) -> RemoteFile:
        name = str(entry["Path"])
        url = f"{self._base}/repo?Revision={commit}&FilePath={quote(name, safe='')}"
        return RemoteFile(name, url, int(entry["Size"]), str(entry.get("Sha256") or ""))
