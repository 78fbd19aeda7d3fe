"""The webhook over TLS: reviews, probes, what is refused and bounded, and files that change under it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.injector.server import MOST_BODY_BYTES, SMALL_BYTES
from proxy.policy.document import PolicyFileError
from proxy.settings import SettingsError
from tests.proxy.injector.authority import certificate, mounted, pair, trusting
from tests.proxy.injector.hook import HANG_S, Hook
from tests.proxy.injector.pods import ASKS, SIDECAR, UID, bytes_of, container, patched, pod, response_of

CANARY = "canary-secret-value"


@pytest.fixture
async def hook(tmp_path: Path) -> AsyncIterator[Hook]:
    async with Hook(tmp_path, look_s=0.01) as hook:
        yield hook


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer that has a length."""
    async with asyncio.timeout(HANG_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        return int(head.split()[1]), await reader.readexactly(length)


async def test_a_pod_is_answered_with_a_patch_that_applies(hook: Hook) -> None:
    before = pod()
    status, headers, body = await hook.post(bytes_of(before))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert patched(before, response_of(body))["spec"]["initContainers"][0]["name"] == "tollhouse"


async def test_what_is_no_pod_and_what_has_it_already_are_allowed(hook: Hook) -> None:
    job = {"group": "batch", "version": "v1", "kind": "Job"}
    assert response_of((await hook.post(bytes_of({"spec": {}}, kind=job)))[2]) == {"uid": UID, "allowed": True}
    again = patched(before := pod(), response_of((await hook.post(bytes_of(before)))[2]))
    assert response_of((await hook.post(bytes_of(again)))[2]) == {"uid": UID, "allowed": True}


async def test_probes_and_what_is_not_there(hook: Hook) -> None:
    assert [(await hook.request("GET", path))[::2] for path in ("/healthz", "/readyz")] == [(200, b"ok\n")] * 2
    assert (await hook.request("GET", "/"))[::2] == (404, b"there is no such path: reviews go to /inject\n")
    status, headers, _ = await hook.request("GET", "/inject")
    assert (status, headers["allow"]) == (405, "POST")
    assert (await hook.request("POST", "/healthz"))[0] == 405


async def test_what_is_malformed_is_told_in_words_of_our_own(hook: Hook) -> None:
    status, headers, body = await hook.post(f'{{"kind": "{CANARY}"}}')
    assert (status, headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert body == b"the body is no AdmissionReview\n"
    [line] = await hook.logged("review.rejected")
    assert (line["status"], line["why"]) == (400, "the body is no AdmissionReview")
    assert CANARY.encode() not in hook.log_text


async def test_an_older_version_is_told_what_to_set(hook: Hook) -> None:
    status, _, body = await hook.post(bytes_of(pod()).replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"))
    assert status == 400
    assert b"admissionReviewVersions" in body


async def test_the_largest_review_is_read_and_a_larger_one_is_not(hook: Hook) -> None:
    filler = "x" * (MOST_BODY_BYTES - len(bytes_of(pod(containers=[container(workingDir="")]))))
    largest = bytes_of(pod(containers=[container(workingDir=filler)]))
    assert len(largest) == MOST_BODY_BYTES
    assert (await hook.post(largest))[0] == 200

    reader, writer = await hook.raw()
    writer.write(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n{" % (MOST_BODY_BYTES + 1))
    assert await answer_of(reader) == (413, b"a review may have 4194304 bytes\n"), "without the rest of it"
    writer.close()


async def test_a_body_without_a_length_is_read_up_to_the_bound(hook: Hook) -> None:
    async def chunks(pieces: int) -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b" " * (1 << 16)
        yield bytes_of(pod())

    assert (await hook.post(chunks(10)))[0] == 200
    assert (await hook.post(chunks(65)))[0] == 413


async def test_a_body_with_a_coding_is_not_read(hook: Hook) -> None:
    status, _, _ = await hook.request("POST", "/inject", bytes_of(pod()), {"content-encoding": "gzip"})
    assert status == 415


async def test_large_bodies_that_dawdle_do_not_hold_up_a_pod(hook: Hook) -> None:
    dawdling = [await hook.raw() for _ in range(8)]
    for _, writer in dawdling:
        writer.write(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n{" % (SMALL_BYTES + 1))
    assert (await hook.post(bytes_of(pod())))[0] == 200
    for _, writer in dawdling:
        writer.close()


async def test_a_sender_who_is_too_slow_is_told_so(tmp_path: Path) -> None:
    async with Hook(tmp_path, body_s=0.05) as hook:
        reader, writer = await hook.raw()
        writer.write(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert (await answer_of(reader))[0] == 408
        writer.close()


async def test_what_is_no_http_is_refused(hook: Hook) -> None:
    reader, writer = await hook.raw()
    writer.write(b"\x00\x01 no http\r\n\r\n")
    assert (await answer_of(reader))[0] == 400
    writer.close()


async def test_a_client_that_leaves_in_the_middle_is_no_fault(hook: Hook) -> None:
    _, writer = await hook.raw()
    writer.write(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()
    assert (await hook.post(bytes_of(pod())))[0] == 200


async def test_plain_http_gets_no_answer(hook: Hook) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hook.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(HANG_S):
        assert b"HTTP" not in await reader.read()
    writer.close()
    assert (await hook.request("GET", "/healthz"))[0] == 200


async def test_connections_without_a_handshake_take_nobodys_place(hook: Hook) -> None:
    """Port scanners and load balancers make them by the thousand."""
    silent = [await asyncio.open_connection("127.0.0.1", hook.port) for _ in range(20)]
    for _, writer in silent[:10]:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await hook.request("GET", "/healthz"))[0] == 200
    assert hook.injector.listener.connections == 1
    for _, writer in silent:
        writer.close()


async def test_no_older_tls_than_1_2_is_spoken(hook: Hook) -> None:
    for version, spoken in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        tls = trusting()
        tls.minimum_version = tls.maximum_version = version
        _, writer = await hook.raw(tls)
        assert writer.get_extra_info("ssl_object").version() == spoken
        writer.close()
    assert hook.injector._identity.context.minimum_version == ssl.TLSVersion.TLSv1_2
    older = trusting()
    older.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await hook.raw(older)


async def test_a_client_that_names_no_server_is_shown_the_certificate(hook: Hook) -> None:
    tls = trusting()
    tls.check_hostname = False
    _, writer = await asyncio.open_connection("127.0.0.1", hook.port, ssl=tls, server_hostname="")
    assert writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()


async def shown(hook: Hook) -> bytes:
    """The certificate that a new connection is shown."""
    _, writer = await hook.raw()
    found: Any = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(found).encode()


async def test_a_new_certificate_is_shown_without_a_restart_and_open_connections_stay(hook: Hook) -> None:
    new = pair("renewed")
    assert (await hook.post(bytes_of(pod())))[0] == 200
    before = hook.injector.listener.connections
    mounted(hook.tls, new)
    await hook.logged("files.activated")
    assert await shown(hook) == new["tls.crt"]
    assert (await hook.post(bytes_of(pod())))[0] == 200
    assert hook.injector.listener.connections >= before


async def test_a_certificate_that_does_not_fit_its_key_changes_nothing(hook: Hook) -> None:
    before = await shown(hook)
    mounted(hook.tls, pair("web") | {"tls.crt": certificate("renewed")})
    [line] = await hook.logged("files.rejected")
    assert "this is not the key of the certificate" in line["mistake_lines"][0]
    assert await shown(hook) == before


async def test_a_new_sidecar_file_is_for_the_next_pod(hook: Hook) -> None:
    mounted(hook.config, {"sidecar.yaml": SIDECAR.replace("0.1.0", "0.2.0").encode()})
    [line] = await hook.logged("files.activated")
    assert line["version"] == "0.2.0"
    before = pod()
    after = patched(before, response_of((await hook.post(bytes_of(before)))[2]))
    assert after["metadata"]["annotations"]["tollhouse.dev/injected"] == "0.2.0"


async def test_a_broken_sidecar_file_changes_nothing_and_is_told_once(hook: Hook) -> None:
    mounted(hook.config, {"sidecar.yaml": SIDECAR.replace("native: true", "native: maybe").encode()})
    [line] = await hook.logged("files.rejected")
    assert line["mistake_lines"] == [f"{hook.flags['sidecar']}:1:9: native: expected true or false, got a text"]
    assert (await hook.post(bytes_of(pod())))[0] == 200
    mounted(hook.config, {"sidecar.yaml": SIDECAR.replace("0.1.0", "0.2.0").encode()})
    await hook.logged("files.activated")
    assert len(hook.lines("files.rejected")) == 1


async def test_the_log_says_which_pod_and_what_became_of_it_and_nothing_else_of_it(hook: Hook) -> None:
    secret = pod(ASKS | {"note": CANARY}, containers=[container(env=[{"name": "TOKEN", "value": CANARY}], args=[CANARY])])
    for sent in (secret, pod(None), pod(ASKS | {"tollhouse.dev/policy": f"{CANARY}!"}), pod(hostNetwork=True)):
        await hook.post(bytes_of(sent))
    await hook.post(bytes_of(secret)[:-9])
    await hook.logged("review.rejected")
    told = [{k: v for k, v in line.items() if k != "ts"} for line in hook.lines("pod.reviewed")]
    same = {"event": "pod.reviewed", "namespace": "shop", "pod": "shop-7d4b9c-", "review_uid": UID}
    assert told == [
        {**same, "level": level, "decision": decision}
        for level, decision in [
            ("info", "injected"),
            ("debug", "not_asked"),
            ("warning", "wrong_annotation"),
            ("warning", "host_network"),
        ]
    ]
    assert CANARY.encode() not in hook.log_text


async def test_many_reviews_at_once_are_all_answered(hook: Hook) -> None:
    answers = await asyncio.gather(*(hook.post(bytes_of(pod())) for _ in range(100)))
    assert {status for status, _, _ in answers} == {200}
    assert {orjson.loads(body)["response"]["patch"] for _, _, body in answers} != set()


async def test_what_cannot_be_started_with_is_told_before_the_port_opens(tmp_path: Path) -> None:
    hook = Hook(tmp_path, sidecar="native: 1\n")
    with pytest.raises(PolicyFileError):
        await hook.__aenter__()
    hook = Hook(tmp_path)
    hook.flags["sidecar"] = str(tmp_path / "nowhere")
    with pytest.raises(PolicyFileError, match="nowhere:1:1: the file cannot be read: No such file or directory"):
        await hook.__aenter__()
    hook = Hook(tmp_path)
    hook.flags["tls_key"] = str(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="nowhere: cannot be read: No such file or directory"):
        await hook.__aenter__()
