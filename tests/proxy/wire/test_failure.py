"""An error tells an app what it needs and nothing of who serves it, in the form that the official SDK raises on."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai._streaming import SSEDecoder, Stream
from openai.types.chat import ChatCompletionChunk

from proxy.errors import CODES, ProxyError, UpstreamError
from proxy.wire.failure import EXPLAINED, in_band_refusal, masked, public_body, stream_event, upstream_refusal

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

SECRETS = ("canary-key-1", "http://vllm:8000/v1", "vllm:8000", "vllm")

# ---- what is masked ----

KEYS = [
    "sk-Ab12Cd34Ef56",
    "sk-proj-Ab12_Cd34-Ef56.x",
    "sk-ant-api03-abcdef",
    "sk-proj-********************Ab12",
    "sess-Ab12Cd34Ef56",
    "rk-abcdef123",
    "gsk_Ab12Cd34Ef56Gh78Ij90",
    "hf_AbCdEfGhIjKlMnOpQr1234",
    "xai-Ab12Cd34Ef56Gh78Ij90",
    "nvapi-Ab12Cd34Ef56Gh78Ij90",
    "sk_live_Ab12Cd34Ef56Gh78",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_123",
    "Bearer abc123def",
    "bearer  Ab+/=.12xyz",
    "BEARER abcdefghijklmnopqrstuvwxyz",
    "Ab1********wxyz",
    "0123456789abcdef0123456789abcdef",
    "4kQZ8sWbV0dTnY3rXcLmPa6uEhGjFi2o",
]
IDS = [
    "org-Ab12Cd34Ef56Gh78Ij90Kl12",
    "org_Ab12Cd34Ef56",
    "ORG-AB12CD34EF56",
    "proj_Ab12Cd34Ef56",
    "user-Ab12Cd34Ef56Gh78",
    "acct_1A2b3C4d5E",
    "key_Ab12Cd34Ef",
    "123e4567-e89b-12d3-a456-426614174000",
    "ops@acme.example",
    "first.last+tag@mail.acme-corp.com",
]
NAMED_IDS = ["acme-corp-prod", "acme_corp", "acme1", "123456789012"]
HOSTS = [
    "https://api.openai.com/v1/chat",
    "HTTP://10.0.0.1:8000/x?y=z",
    "wss://gpu.internal/realtime",
    "grpc://vllm-0:9000",
    "redis://user:pw@cache:6379/0",
    "api.openai.com",
    "API.OPENAI.COM",
    "my-resource.openai.azure.com:443",
    "vllm.ml.svc",
    "vllm.ml.svc.cluster.local:8000",
    "gpu-17.corp",
    "node_1.lan",
    "host.docker.internal",
    "inference.eu",
    "vllm-0:8000",
    "gpu1:30000",
    "gpu-node.rack7:8000",
    "localhost",
    "localhost:8000",
    "LocalHost:1",
    "10.0.0.1",
    "10.0.0.1:8000",
    "255.255.255.255",
    "169.254.169.254",
    "ip-10-0-0-1",
    "::1",
    "[::1]",
    "[::1]:8000",
    "fe80::1",
    "fe80::1%eth0",
    "2001:db8::8a2e:370:7334",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "2001:DB8::",
    "[2001:db8::1]:443",
    "::ffff:10.0.0.1",
    "fd12:3456:789a:1::1",
]
FRAMES = [
    "{}",
    "{} refused",
    "cannot reach {}: refused",
    "at '{}'.",
    'say "{}"',
    "({})",
    "a={}, b",
    "x:{}",
    "[Errno 111] ('{}', 1)",
    "\n{}\n",
    "{}/x",
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("secret", "word"), [*((k, "key") for k in KEYS), *((i, "id") for i in IDS)])
def test_keys_and_ids_are_masked_in_any_sentence(secret: str, word: str, frame: str) -> None:
    said = masked(frame.format(secret), ())
    assert f"[{word}]" in said
    assert not any(part in said for part in secret.split() if part.lower() != "bearer")


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("host", HOSTS)
def test_hosts_and_addresses_are_masked_in_any_sentence(host: str, frame: str) -> None:
    said = masked(frame.format(host), ())
    assert "[host]" in said or "[url]" in said
    assert host not in said
    assert not any(part in said for part in host.replace("/", ":").split(":") if len(part) > 3)


@pytest.mark.parametrize("name", NAMED_IDS)
@pytest.mark.parametrize(
    "sentence",
    [
        "Rate limit reached for gpt-4.1 in organization {} on tokens per min (TPM): Limit 10000, Used 9000.",
        "The organisation '{}' does not exist.",
        "Project `{}` is archived.",
        "tenant={}: suspended",
        "organization id: {}",
        "Account {}",
    ],
)
def test_what_an_organisation_is_called_is_masked(sentence: str, name: str) -> None:
    said = masked(sentence.format(name), ())
    assert name not in said
    assert "[id]" in said


@pytest.mark.parametrize(
    "sentence",
    [
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130001 tokens.",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "The model `gpt-4.1-mini` does not exist or you do not have access to it.",
        "Invalid value for 'messages[0].content[1].image_url.url': expected a string, but got an object instead.",
        "you must provide a model parameter; see /v1/chat/completions, v1/embeddings and v1/chat/completions",
        "models: gpt-4.1, gpt-4o-2024-08-06, o3-mini, text-embedding-3-small, ft:gpt-4.1-mini:acme::Ab12Cd34, chatgpt-4o-latest",
        "models: Meta-Llama-3.1-70B-Instruct-Turbo, google/gemma-3-27b-it, qwen2.5:14b, llama3.2:3b, DeepSeek-R1-Distill-Qwen-14B-GGUF",
        "example: 12:30:45, 2026-11-23T12:30:45Z, 12:30, 1:2:3, 16:9 and 23:59:59.999",
        "Limit 10000, Used 9999, Requested 512. Please try again in 6m0s. Visit your settings.",
        "tokens:10000 line:12 status:400 step:1536 max:4096",
        "the user-provided key-value pairs and the user_location of an org-specific proj-dependent key_features",
        "Bearer authentication is needed: send a Bearer token. A bearer of news.",
        "Your organization must be verified to use the model. Your account is not active; check the project settings.",
        "the class std::vector<int> of ns::a::b, abc::xyz; a::method() C++ :: and a ::: list",
        "a **bold** word, a * b ** c, 100% *sure*",
        "risk-averse, disk-based, task-oriented, sk-learn, ek-x, pk-id",
        "ratio 0.1.2, version 1.2.3, python3.11, vLLM 0.10.1.1rc2, CUDA 12.4",
        "see tools[0].function.parameters, response_format.json_schema.schema and input.0.content.1",
        "e.g. this, i.e. that, etc. And so on.No space.In between.As here",
        "image/png;base64, data:image/png;base64,iVBORw0KGgo, text/event-stream",
        "naïve café 日本 👋🏽 مرحبا",
        "hostname must be set; hosts are many; the host: yours",
        "finish_reason is 'length' (code: 1024), error_code=context_length_exceeded, id chatcmpl-Ab12Cd34Ef56Gh78Ij90Kl12Mn",
        "",
    ],
)
def test_ordinary_explanations_stay_as_they_are(sentence: str) -> None:
    assert masked(sentence, ()) == sentence


def test_literal_secrets_are_hidden_wherever_they_stand() -> None:
    said = masked("xcanary-key-1y at http://vllm:8000/v1/x, vllm:8000, vllm", SECRETS)
    assert said == "x[hidden]y at [hidden]/x, [hidden], [hidden]"
    assert masked("nothing", ("", "x")) == "nothing"


def test_an_explanation_is_one_line_without_control_characters() -> None:
    assert masked("a\r\nb\0c\x1b[31md\u2028e\u202ef\tg", ()) == "a  b c [31md e f g"


@pytest.mark.parametrize("length", [2000, 2001, 7999, 8001, 100_000])
def test_a_long_explanation_is_cut_and_no_half_of_a_secret_is_left(length: int) -> None:
    said = masked("word " * (length // 5) + "sk-Ab12Cd34Ef56", ())
    assert len(said) <= 2001
    assert "sk-Ab" not in said
    squeezed = masked("https://x/" + "a" * 7980 + " sk-Ab12Cd34Ef56Gh78Ij90", ())
    assert "sk-" not in squeezed
    assert masked("x" * 100_000, ()) == ""


@settings(PATIENT, max_examples=300)
@given(
    st.lists(st.sampled_from([*KEYS, *IDS, *HOSTS, "word", "a-", "::", ".", ":", "[", "org ", "Bearer ", "\n", "é"]), max_size=12)
)
def test_masking_never_fails_and_masks_nothing_twice(parts: list[str]) -> None:
    once = masked(" ".join(parts), ())
    assert masked(once, ()) == once


@pytest.mark.parametrize(
    "piece",
    [*"a-._:*+@[1 ", "a-", "a.", "1.", "f:", "::", "sk-", "Bearer ", "http:/", "org-", "host=", "A1", "eyJaaaaaaaa.", "com."],
)
def test_no_run_of_characters_keeps_masking_busy(piece: str) -> None:
    """Patterns that go back and forth over a run would not come to an end here."""
    masked(piece * (100_000 // len(piece)), ())
    masked(f"{piece * (7000 // len(piece))} end", ())


# ---- our own bodies ----


@pytest.mark.parametrize("code", CODES)
def test_a_body_has_exactly_the_four_keys_of_the_api(code: str) -> None:
    error = ProxyError(code, 'A "sentence".', param="model", detail="canary", policy="p", clause="c", headers=(("x", "canary"),))
    assert orjson.loads(public_body(error)) == {
        "error": {"message": 'A "sentence".', "type": CODES[code].type, "param": "model", "code": code}
    }


def test_keys_without_a_value_are_null() -> None:
    assert orjson.loads(public_body(ProxyError("internal_error", "x")))["error"]["param"] is None


class Answer:
    """As much of a response as the SDK's Stream reads."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.request = None
        self.http_version = "HTTP/1.1"

    def iter_bytes(self) -> Iterator[bytes]:
        for at in range(0, len(self.body), 7):
            yield self.body[at : at + 7]

    def close(self) -> None:
        pass


FIRST = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
BROKEN = UpstreamError("upstream_broken", "The upstream's stream broke off: 日本.", param="x", detail="canary")


@pytest.mark.parametrize("surface", ["chat", "completions"])
def test_the_official_sdk_raises_on_the_last_event_of_a_broken_chat_stream(surface: str) -> None:
    body = FIRST + stream_event(surface, BROKEN, sequence=7)
    with OpenAI(api_key="k", base_url="http://127.0.0.1/v1") as client:
        stream: Any = Stream(cast_to=ChatCompletionChunk, response=Answer(body), client=client)  # type: ignore[arg-type]
        assert next(stream).id == "c"
        with pytest.raises(APIError) as caught:
            next(stream)
    assert (caught.value.message, caught.value.code, caught.value.type) == (BROKEN.message, "upstream_broken", "upstream_error")
    assert b"[DONE]" not in body
    assert b"canary" not in body


def test_a_broken_responses_stream_ends_with_the_error_event_of_that_api() -> None:
    [event] = SSEDecoder().iter_bytes(iter([stream_event("responses", BROKEN, sequence=7)]))
    assert event.event == "error"
    assert event.json() == {
        "type": "error",
        "code": "upstream_broken",
        "message": BROKEN.message,
        "param": "x",
        "sequence_number": 7,
        "error": {"message": BROKEN.message, "type": "upstream_error", "param": "x", "code": "upstream_broken"},
    }


# ---- what an upstream's refusal becomes ----


def answered(status: int, said: Any, headers: dict[str, str] | None = None) -> UpstreamError:
    return upstream_refusal(status, said if isinstance(said, bytes) else orjson.dumps(said), headers or {}, secrets=SECRETS)


@pytest.mark.parametrize("status", sorted(EXPLAINED))
def test_a_refusal_about_the_request_reaches_the_app_with_its_explanation(status: int) -> None:
    said = {
        "message": "No 'x' at vllm for org-Ab12Cd34Ef56.",
        "type": "invalid_request_error",
        "param": "messages[0].x",
        "code": "bad_x",
    }
    error = answered(status, {"error": said})
    assert (error.status, error.code, error.type, error.param) == (status, "bad_x", "invalid_request_error", "messages[0].x")
    assert error.message == "No 'x' at [hidden] for [id]."


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 529, 599, 402, 405, 406, 408, 410, 415, 425, 451])
@pytest.mark.parametrize("body", [{"error": {"message": "canary", "code": "canary"}}, b"<html>canary</html>", b"\xff" * 65_536])
def test_any_other_failure_keeps_its_status_and_nothing_of_its_words(status: int, body: Any) -> None:
    error = answered(status, body)
    assert (error.status, error.code, error.type) == (status, "upstream_error", "upstream_error")
    assert error.message == f"The upstream failed with status {status}."
    assert error.param is None


@pytest.mark.parametrize("status", [100, 101, 199, 600, 999])
def test_a_status_that_is_none_is_our_502(status: int) -> None:
    assert answered(status, {}).status == 502


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_fault_of_the_upstream_and_its_target_stays_here(status: int) -> None:
    error = answered(status, b"canary", {"location": "http://169.254.169.254/"})
    assert (error.status, error.code, error.headers) == (502, "upstream_broken", ())
    assert "169" not in error.message


def test_a_401_is_about_our_credentials_and_not_the_apps() -> None:
    error = answered(401, {"error": {"message": "Incorrect API key provided: canary-key-1", "code": "invalid_api_key"}})
    assert (error.status, error.code) == (502, "upstream_credentials")
    assert "canary" not in error.message


@pytest.mark.parametrize("value", ["7", "0.5", "Mon, 23 Nov 2026 12:00:00 GMT", "soon", "1e9", "-1", ""])
@pytest.mark.parametrize("status", [429, 503])
def test_when_to_come_back_is_passed_on_unchanged(status: int, value: str) -> None:
    hints = {"retry-after": value, "retry-after-ms": value, "x-should-retry": "false"}
    error = answered(status, {}, {**hints, "x-ratelimit-limit-requests": "1", "set-cookie": "canary"})
    assert dict(error.headers) == hints


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "m"}}, "m"),
        ({"error": "m"}, "m"),
        ({"message": "m"}, "m"),
        ({"detail": "m"}, "m"),
        ({"error": {"detail": "m"}}, "m"),
        ({"object": "error", "message": "m", "code": 40301}, "m"),
        ({"error": {"message": None}}, "The upstream answered 400."),
        ({"error": {"message": ["m"]}}, "The upstream answered 400."),
        ({"error": None}, "The upstream answered 400."),
        ({"error": []}, "The upstream answered 400."),
        ({"detail": [{"msg": "m"}]}, "The upstream answered 400."),
        ({}, "The upstream answered 400."),
        ([], "The upstream answered 400."),
        (7, "The upstream answered 400."),
        (b"", "The upstream answered 400."),
        (b"<html>no</html>", "The upstream answered 400."),
        (b'{"error": {"message": "cut', "The upstream answered 400."),
        (b'{"error": {"message": "\xff"}}', "The upstream answered 400."),
    ],
)
def test_an_explanation_is_found_in_every_shape_that_servers_use(body: Any, message: str) -> None:
    assert answered(400, body).message == message


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("context_length_exceeded", "context_length_exceeded"),
        ("BadRequestError", "BadRequestError"),
        (400, "400"),
        ("", "upstream_error"),
        (None, "upstream_error"),
        (True, "upstream_error"),
        (1.5, "upstream_error"),
        ({"a": 1}, "upstream_error"),
        ("two words", "upstream_error"),
        ("a\nb", "upstream_error"),
        ("x" * 65, "upstream_error"),
        ("sk-Ab12Cd34Ef56", "upstream_error"),
        ("api.openai.com", "upstream_error"),
        ("10.0.0.1", "upstream_error"),
        ("canary-key-1", "upstream_error"),
    ],
)
def test_a_code_or_type_is_a_word_without_secrets(value: Any, code: str) -> None:
    error = answered(400, {"error": {"message": "m", "code": value, "type": value}})
    assert (error.code, error.type) == (code, code)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("messages[0].content", "messages[0].content"),
        ("tools.0.function", "tools.0.function"),
        (None, None),
        (7, "7"),
        ("a b", None),
        ("vllm", None),
        ("api.openai.com", None),
        ("org-Ab12Cd34Ef56", None),
        (["x"], None),
    ],
)
def test_a_param_is_a_field_without_secrets(value: Any, param: str | None) -> None:
    assert answered(422, {"error": {"message": "m", "param": value}}).param == param


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        ({"message": "m at vllm", "code": 400, "type": "BadRequestError"}, True),
        ({"message": "m at vllm", "type": "invalid_request_error", "code": None}, True),
        ({"message": "m at vllm", "code": 500, "type": "InternalServerError"}, False),
        ({"message": "m at vllm", "code": "server_error", "type": "server_error"}, False),
        ({"message": "m at vllm", "code": True}, False),
        ({"message": None, "code": 400}, False),
        ("m at vllm", False),
        (None, False),
        ([], False),
    ],
)
def test_an_error_within_a_stream_is_explained_where_it_is_about_the_request(said: Any, explained: bool) -> None:
    error = in_band_refusal(said, secrets=SECRETS)
    assert error.message == ("m at [hidden]" if explained else "The upstream reported an error in its stream.")
    assert (error.code == "upstream_error") is not (explained and said.get("code") is not None)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "param", "detail"]), inner, max_size=6)
    ),
    max_leaves=10,
)


@settings(PATIENT, max_examples=300)
@given(said=JSON | st.binary(max_size=50), status=st.integers(100, 999).filter(lambda status: not 200 <= status < 300))
def test_whatever_an_upstream_says_we_have_an_answer_that_can_be_sent(said: Any, status: int) -> None:
    for error in (answered(status, said), in_band_refusal(said, secrets=SECRETS)):
        body = orjson.loads(public_body(error))["error"]
        assert set(body) == {"message", "type", "param", "code"}
        assert isinstance(body["message"], str)
        assert isinstance(body["code"], str)
        assert 400 <= error.status < 600
