"""Hugging Face's hub and its mirrors: what huggingface_hub says of a repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import hf_raise_for_status

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

ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 20.0


class HuggingFace:
    """One repository at an endpoint that speaks Hugging Face's API."""

    def __init__(self, endpoint: str, repository: str, token: str) -> None:
        self._endpoint, self._repository, self._token = endpoint, repository, token
        self._api = HfApi(endpoint=endpoint, token=token or False, library_name="pilothouse")

    def snapshot(self, revision: str) -> Snapshot:
        """A branch or tag is resolved to its commit first; every file is asked for at that commit."""
        with self._in_words(revision):
            info = self._api.model_info(self._repository, revision=revision or None, timeout=TIMEOUT_SECONDS)
            commit = info.sha or ""
            if not COMMIT.fullmatch(commit):
                raise HubRefused(f"{self._endpoint} names no commit for {self._repository}")
            entries = self._api.list_repo_tree(self._repository, recursive=False, revision=commit)
            files = [self._file(entry, commit) for entry in entries if isinstance(entry, RepoFile)]
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return Snapshot(commit, needed(files), headers)

    def check(self, response: httpx2.Response) -> None:
        """Raises `HubRefused` for an error response."""
        with self._in_words(""):
            hf_raise_for_status(response)

    def _file(self, entry: RepoFile, commit: str) -> RemoteFile:
        url = hf_hub_url(self._repository, entry.path, revision=commit, endpoint=self._endpoint)
        sha256 = entry.lfs.sha256 if entry.lfs else ""
        return RemoteFile(entry.path, url, entry.size, sha256, "" if entry.lfs else entry.blob_id)

    @contextmanager
    def _in_words(self, revision: str) -> Iterator[None]:
        page = f"{self._endpoint}/{self._repository}"
        try:
            yield
        except GatedRepoError as error:
            then = "with the account of HUB_TOKEN" if self._token else "and set HUB_TOKEN to a token of yours"
            raise TokenRefused(f"{page} is gated: accept its conditions there {then}") from error
        except RepositoryNotFoundError as error:
            hint = "HUB_TOKEN may not read it" if self._token else "a private one needs HUB_TOKEN"
            raise NotFound(f"{page} does not exist, or {hint}") from error
        except RevisionNotFoundError as error:
            raise NotFound(f"{page} has no commit, branch or tag {revision!r}") from error
        except HFValidationError as error:
            raise NotFound(f"{self._repository} is no name of a repository: {error}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise TokenRefused(
                    f"{page} refuses HUB_TOKEN ({status}): is it valid, and may it read this?"
                ) from error
            raise Unreachable(f"{page} answered {status}: try again later") from error
        except httpx2.TransportError as error:
            raise Unreachable(unreachable(self._endpoint, error)) from error


def unreachable(endpoint: str, error: Exception) -> str:
    return (
        f"{endpoint} cannot be reached ({type(error).__name__}: {error}). Is there a network?"
        " HUB_ENDPOINT may name a mirror; without a network, import from a folder"
    )
