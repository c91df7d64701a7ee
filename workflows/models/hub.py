"""Hugging Face's hub as a storage, or another one that speaks its protocol. huggingface_hub does the talking.

The token goes to the endpoint only: a redirect to another host, as for large files, is followed without it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Generator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from huggingface_hub import ModelInfo, constants, get_session, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]  # mypy sees no exports

from workflows.errors import InvalidInput, WorkflowError
from workflows.models.ref import ModelRef, is_file_name
from workflows.models.storage import MAX_LISTED, Listing, RemoteFile, absent, unreachable

__all__ = ["Hub"]

log = logging.getLogger(__name__)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# Unknown, private and gated are one answer, for us as for our callers.
_ABSENT: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
_CLIENT: Final = "infernet-serve"
_MAX_LISTING_BYTES: Final = 16 << 20  # what is said of so many files as may be listed takes a third of it
_MAX_LISTING_S: Final = 60.0


class Hub:
    """See `workflows.models.storage.Storage`."""

    def __init__(
        self,
        endpoint: str | None,
        token_file: Path | None,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._clock = clock

    def listing(self, ref: ModelRef) -> Listing:
        try:
            info = ModelInfo(**self._about(ref))
            files = info.siblings or []
            if info.sha is None or not _COMMIT.fullmatch(info.sha) or len(files) > MAX_LISTED:
                raise unreachable()
            known = {
                file.rfilename: RemoteFile(
                    size=file.lfs.size if file.lfs else file.size,
                    sha256=file.lfs.sha256 if file.lfs else None,
                    git_sha1=None if file.lfs else file.blob_id,
                )
                for file in files
                if is_file_name(file.rfilename)
            }
        except WorkflowError:
            raise
        except HFValidationError as cause:  # a name that no repository can have
            raise absent() from cause
        except Exception as cause:
            raise unreachable() from cause
        return Listing(commit=info.sha, files=known)

    def _about(self, ref: ModelRef) -> dict[str, Any]:
        """What `HfApi.model_info` asks, but that would read an answer of any length, for as long as it takes."""
        validate_repo_id(f"{ref.owner}/{ref.name}")
        url = f"{self._endpoint or constants.ENDPOINT}/api/models/{ref.owner}/{ref.name}"
        url += "" if ref.revision is None else f"/revision/{ref.revision}"
        headers = build_hf_headers(token=self._token(), library_name=_CLIENT)
        until, said = self._clock() + _MAX_LISTING_S, bytearray()
        with get_session().stream(
            "GET", url, params={"blobs": True}, headers=headers, timeout=self._timeout_s
        ) as response:
            if response.status_code != HTTPStatus.OK:
                log.warning("the hub answers %d for %s", response.status_code, ref.model)
                raise (absent() if response.status_code in _ABSENT else unreachable())
            for piece in response.iter_bytes():
                said += piece
                if len(said) > _MAX_LISTING_BYTES or self._clock() > until:
                    log.warning("the hub does not come to an end about %s", ref.model)
                    raise unreachable()
        about: dict[str, Any] = json.loads(said)
        return about

    def read(self, ref: ModelRef, commit: str, file: str, start: int, mark: str | None) -> Generator[bytes]:
        url = hf_hub_url(f"{ref.owner}/{ref.name}", file, revision=commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token(), library_name=_CLIENT)
        headers["Accept-Encoding"] = "identity"
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with get_session().stream("GET", url, headers=headers, timeout=self._timeout_s) as response:
                if response.status_code in _ABSENT:
                    raise absent()
                if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    raise unreachable()
                skip = start if response.status_code == HTTPStatus.OK else 0  # who knows no ranges sends all of it
                for piece in response.iter_bytes():  # as it comes: what is gathered first is lost when it breaks off
                    rest = piece[skip:]
                    skip -= len(piece) - len(rest)
                    if rest:
                        yield rest
        except WorkflowError:
            raise
        except Exception as cause:
            raise unreachable() from cause

    def _token(self) -> str | None:
        """None lets huggingface_hub look into the environment and its own file."""
        if self._token_file is None:
            return None
        try:
            return self._token_file.expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as cause:
            raise InvalidInput("the file with the hub's token cannot be read", param="sources") from cause
