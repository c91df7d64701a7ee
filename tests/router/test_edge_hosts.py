"""The edge: which names, versions and machines it answers to."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config import RouterArgs
from deployments.router.keys import Keys, mint_key
from tests.router.router_front import Front, Visit

USER, USER_KEY = mint_key("user", workflows=["echo*"])
KEYS = Keys([USER_KEY])
AS_USER = {"x-api-key": USER}


def front(**args: Any) -> Front:
    made = Front(**args)
    made.add("echo")
    return made


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8000", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("models.lan:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8000", 421),
        ("", 421),
        ("\xff", 400),
        ("localhost:x@evil", 400),
        ("localhost:1:2", 400),
        ("[::1", 400),
        ("localhost/", 400),
        ("localhost, localhost", 400),
        ("[fe80::1]:8000", 421),
    ],
)
async def test_without_keys_only_our_own_names_are_answered(host: str, status: int) -> None:
    visit = Visit(front(allowed_hosts=["Models.lan"]).app, "GET", "/v2")
    visit.scope["headers"] = [(b"host", host.encode("latin-1"))]
    await visit.start()
    assert (await visit.next())["status"] == status


@pytest.mark.parametrize("path", ["/v2", "/health", "/none"])
async def test_a_request_is_for_one_host_in_a_version_that_is_spoken(path: str) -> None:
    for wrong in ({"headers": [(b"host", b"localhost")] * 2}, {"http_version": "0.9"}, {"http_version": "2.0"}):
        visit = Visit(Front(KEYS).app, "GET", path)
        visit.scope.update(wrong)
        await visit.start()
        assert (await visit.next())["status"] == 400


@pytest.mark.parametrize(
    ("client", "server", "status"),
    [
        (("127.0.0.1", 1), ("0.0.0.0", 8000), 200),
        (("127.9.9.9", 1), ("127.0.0.1", 8000), 200),
        (("::1", 1), ("::", 8000), 200),
        (("::ffff:127.0.0.1", 1), ("::", 8000), 200),
        (None, ("/run/router.sock", None), 200),
        (("192.0.2.7", 1), ("0.0.0.0", 8000), 403),
        (("::ffff:192.0.2.7", 1), ("::", 8000), 403),
        (("2001:db8::1", 1), ("::", 8000), 403),
        (("localhost", 1), ("0.0.0.0", 8000), 403),
        (("", 0), ("0.0.0.0", 8000), 403),
        (None, ("0.0.0.0", 8000), 403),
        (None, None, 403),
    ],
)
async def test_without_keys_only_the_same_machine_is_answered(
    client: tuple[str, int] | None, server: tuple[str, int | None] | None, status: int
) -> None:
    for keys, path, headers, expected in (
        (None, "/v2", {}, status),
        (None, "/health", {}, 200),
        (KEYS, "/v2", AS_USER, 200),
    ):
        visit = Visit(Front(keys).app, "GET", path, headers=headers.items())
        visit.scope["client"], visit.scope["server"] = client, server
        await visit.start()
        assert (await visit.next())["status"] == expected


async def test_with_keys_any_name_will_do_unless_names_are_listed() -> None:
    headers = {**AS_USER, "host": "anything.example"}
    assert (await Front(KEYS).get("/v2", headers=headers)).status_code == 200
    assert (await Front(KEYS, allowed_hosts=["a.example"]).get("/v2", headers=headers)).status_code == 421
    assert (await Front(KEYS, allowed_hosts=["a.example"]).get("/health", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "a.example:8000",
        "[::1]:8000",
        "[fd00::7]",
        "http://a.example",
        "a.example/",
        "*.example",
        "",
        "a b",
        "\xe4.example",
    ],
)
def test_a_listed_host_that_could_never_match_is_refused(host: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RouterArgs(allowed_hosts=["b.example", host])
    assert "without a port" in str(caught.value)


@pytest.mark.parametrize(("host", "header"), [("A_1-b.example", "a_1-B.example:80"), ("fd00::7", "[FD00::7]:80")])
async def test_a_listed_host_is_a_name_or_an_address(host: str, header: str) -> None:
    answer = await Front(KEYS, allowed_hosts=[host]).get("/v2", headers={**AS_USER, "host": header})
    assert answer.status_code == 200
