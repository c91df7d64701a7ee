"""The suite of remote behaviour against servers of others, where they are installed; see `peers`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.upstreams.behaviour import CHECKS, Check, Given
from tests.upstreams.peers import LITELLM, TRANSFORMERS, Peer
from workflows.batch import working_for
from workflows.context import CallContext
from workflows.errors import DeadlineExceeded, RateLimited, UpstreamFailed
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef

pytestmark = pytest.mark.upstream
every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@every_check
@pytest.mark.parametrize("peer", TRANSFORMERS, ids=str)
async def test_transformers_serve(
    peer: Peer, check: Check, transformers: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await check(Given(peer, transformers, tmp_path, caplog))


@every_check
@pytest.mark.parametrize("peer", LITELLM, ids=str)
async def test_litellm(
    peer: Peer, check: Check, litellm: str, litellm_key: SecretRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await check(Given(peer, litellm, tmp_path, caplog, litellm_key))


@pytest.mark.parametrize("peer", [peer for peer in LITELLM if peer.name.endswith("chat")], ids=str)
async def test_litellm_limits_are_the_callers_to_wait_for(peer: Peer, litellm: str, litellm_key: SecretRef) -> None:
    policy = UpstreamPolicy(attempts=1)
    workflow = await peer.make(litellm, model="limited", key=litellm_key, upstream=policy).asetup()
    with pytest.raises(RateLimited) as caught:
        await workflow.ainference(peer.ask)
    await workflow.ateardown()
    assert caught.value.retry_after_s is not None


@pytest.mark.parametrize("peer", [peer for peer in LITELLM if peer.name.endswith("chat")], ids=str)
async def test_litellm_is_not_waited_for_longer_than_the_caller_or_the_policy_allows(
    peer: Peer, litellm: str, litellm_key: SecretRef
) -> None:
    policy = UpstreamPolicy(first_byte_s=1.0)
    workflow = await peer.make(litellm, model="slow", key=litellm_key, upstream=policy).asetup()
    with pytest.raises(UpstreamFailed):
        await workflow.ainference(peer.ask)
    with working_for(CallContext("request-1", time.monotonic() + 0.2)), pytest.raises(DeadlineExceeded):
        await workflow.ainference(peer.ask)
    await workflow.ateardown()
