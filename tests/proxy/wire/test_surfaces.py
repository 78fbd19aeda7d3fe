"""A path has one spelling. Every surface is found by it; every other one is not found, so nothing gets round a meter."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.call import Surface
from proxy.errors import InvalidCall
from proxy.wire.surfaces import ROOT, SURFACES, canonical, surface_of

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

CHAT = "/v1/chat/completions"
METERED = [surface.path for surface in SURFACES if surface.metered]
ENCODED = [f"/v1/chat/completion%{ord('s'):02x}", "/v1/ch%61t/completions", "/%76%31/chat/completions", "/v1/chat/%63ompletions"]
SLASHES = [
    *["/v1//chat/completions", "//v1/chat/completions", "/v1/chat//completions", "/v1/chat/completions/", "/v1/chat/completions//"],
    *[
        "/v1/chat%2fcompletions",
        "/v1/chat%2Fcompletions",
        "/v1%2fchat/completions",
        "%2fv1/chat/completions",
        "/v1/chat%252fcompletions",
    ],
    *[
        "/v1\\chat\\completions",
        "\\v1/chat/completions",
        "/v1/chat%5ccompletions",
        "/v1/chat%5Ccompletions",
        "/v1/chat%c0%afcompletions",
    ],
    *[
        "/v1/chat%e0%80%afcompletions",
        "/v1/chat∕completions",
        "/v1/chat／completions",
        "/v1/chat%ef%bc%8fcompletions",
        "v1/chat/completions",
    ],
]
DOTS = [
    *[
        "/v1/./chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/chat/../chat/completions",
        "/../v1/chat/completions",
        "/v1/chat/.",
    ],
    *[
        "/v1/chat/completions/.",
        "/v1/chat/completions/..",
        "/v1/%2e/chat/completions",
        "/v1/%2E%2e/v1/chat/completions",
        "/v1/.%2e/x",
    ],
    *[
        "/v1/files/../chat/completions",
        "/v1/files/%2e%2e/chat/completions",
        "/v1/files/..%2fchat/completions",
        "/v1/..;/chat/completions",
    ],
    *["/v1/%252e%252e/chat/completions", "/v1/%c0%ae%c0%ae/chat/completions", "/v1/files/..", "/..", "/.", "/v1/.."],
]
CASES = [
    "/V1/chat/completions",
    "/v1/Chat/Completions",
    "/v1/CHAT/COMPLETIONS",
    "/v1/chat/completionS",
    "/v1/Embeddings",
    "/v1/RESPONSES",
]
BYTES = [
    f"/v1/chat/completions%{code:02x}" for code in (*range(0x20), 0x2E, 0x2F, 0x3F, 0x23, 0x25, 0x3B, 0x5C, 0x7F, 0x80, 0xC3, 0xFF)
]
SIGNS = [
    f"/v1/chat/completions{sign}" for sign in [*' \t\r\n\0\x7f;#"<>[]{}|^`\\', "é", "\u2044", "\u200b", ";a=b", "#top", "\udcff"]
]
ESCAPES = [f"/v1/chat/completions{tail}" for tail in ("%", "%2", "%zz", "%u002f", "%%", "%25", "%2525", "%-1", "% 20")]
FORMS = [
    "http://api.openai.com/v1/chat/completions",
    "https://x/v1/chat/completions",
    "*",
    "",
    "/",
    "?",
    "//",
    "x:443",
    "/v1/",
    "/v1//",
]
QUERIES = [
    f"{CHAT}?{query}"
    for query in ("a b", "a\r\nb", "a=\0", "a#b", "a=<b>", 'a="b"', "a\\b", "é", "a=b;c", "\x7f", "a|b", "{}", "`")
]
ODD = [*ENCODED, *SLASHES, *DOTS, *CASES, *BYTES, *SIGNS, *ESCAPES, *FORMS, *QUERIES]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.path)
def test_every_surface_is_found_by_its_path_with_and_without_a_query(surface: Surface) -> None:
    path = surface.path.replace("*", "gpt-4.1")
    for target, query in (
        (path, ""),
        (path + "?", ""),
        (path + "?beta=true", "beta=true"),
        (path + "?a[]=1&b=%20+?/", "a[]=1&b=%20+?/"),
    ):
        assert canonical(target) == (path, query)
        assert surface_of(path) is surface


def test_there_are_more_than_a_hundred_odd_spellings() -> None:
    assert len(set(ODD)) > 120


@pytest.mark.parametrize("target", ODD, ids=ascii)
def test_an_odd_spelling_is_not_found(target: str) -> None:
    with pytest.raises(InvalidCall) as caught:
        canonical(target)
    assert (caught.value.code, caught.value.status, caught.value.message) == ("not_found", 404, "There is no such path.")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/file-Ab12/content",
        "/v1/models/ft:gpt-4.1-mini:acme::Ab12",
        "/v1/models/a%20b",
        "/v1/x/@me",
        "/v1/x/~(a),b!c$d&e'f*g+h=i",
        "/v1/x/a...b/...",
        "/v1/x/.hidden",
        "/v1/batches",
        "/healthz",
    ],
)
def test_a_path_with_one_reading_is_taken_as_it_stands(path: str) -> None:
    assert canonical(path) == (path, "")


@pytest.mark.parametrize(
    "path", ["/v1/models/a/b", "/v1/models", "/v1/modelsx", "/v1/chat", "/v1/chat/completions/x", "/v1/chat/completionsx", "/v1"]
)
def test_a_neighbour_of_a_surface_is_another_path(path: str) -> None:
    found = surface_of(path)
    assert found is None or found.path == path


def test_surfaces_are_below_the_root_and_named_once_each() -> None:
    paths = [surface.path for surface in SURFACES]
    assert all(path.startswith(ROOT + "/") for path in paths)
    assert len(set(paths)) == len(paths)


SEGMENTS = st.lists(
    st.sampled_from(
        [
            "/",
            "v1",
            "chat",
            "completions",
            "embeddings",
            "CHAT",
            ".",
            "..",
            "%2e",
            "%2f",
            "%63",
            "%",
            "//",
            "\\",
            ";",
            "?",
            "a",
            "%20",
            "#",
        ]
    ),
    max_size=12,
).map("".join)


@settings(PATIENT, max_examples=500)
@given(SEGMENTS)
@example("/v1/chat/completions%20")
def test_a_path_that_is_accepted_means_to_an_upstream_what_it_means_to_us(target: str) -> None:
    """Whatever a server does to a path before it looks it up, no accepted one becomes a metered one that it was not here."""
    try:
        path, _ = canonical(target)
    except InvalidCall:
        return
    assert path.startswith("/")
    decoded = path.replace("%20", " ")
    assert "%" not in decoded
    assert "//" not in decoded
    assert not any(segment in (".", "..", "") for segment in decoded.split("/")[1:])
    if decoded.lower() in METERED:
        assert surface_of(path) is not None
