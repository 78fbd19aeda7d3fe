"""A form is read as whoever reads it behind us would, or not at all, and passes on as it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidCall
from proxy.wire.form import boundary_of, parse_form, patched_form

MODEL = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
FILE = (
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\n\0\r\n--\r\n\xff\r\n'
)
END = b"--b--\r\n"


def part(name: str, value: str) -> bytes:
    return f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/form-data; boundary=b", b"b"),
        ('Multipart/Form-Data;boundary="a b"', b"a b"),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW", b"----WebKitFormBoundary7MA4YWxkTrZu0gW"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/mixed; boundary=b", None),
        ("multipart/form-data; boundary=" + "b" * 71, None),
        ('multipart/form-data; boundary="\udcd6"', None),  # a byte that is no UTF-8
        ('multipart/form-data; boundary="a\x07b"', None),
        ('multipart/form-data; boundary="a "', None),
        ('multipart/form-data; boundary="ä"', None),
    ],
)
def test_a_boundary_is_named_once_and_plainly(kind: str, boundary: bytes | None) -> None:
    assert boundary_of(kind) == boundary


def test_text_fields_are_read_and_files_are_measured() -> None:
    parts = (
        MODEL,
        FILE,
        part("n", "3"),
        part("stream", "true"),
        part("include[]", "a"),
        part("include[]", "b"),
        part("size", "12"),
        END,
    )
    form = parse_form(b"".join(parts), b"b")
    assert form.fields == {"model": "whisper-1", "n": 3, "stream": True, "include[]": ["a", "b"], "size": "12"}
    assert (form.files, form.file_bytes) == (1, len(b"\0\r\n--\r\n\xff"))


ODD = {
    "no end": MODEL,
    "something before it": b"x\r\n" + MODEL + END,
    "something behind it": MODEL + END + b"x",
    "another boundary that begins alike": MODEL.replace(b"--b\r\n", b"--bb\r\n") + END,
    "a boundary with something behind it": MODEL + b"--b \r\n" + END,
    "no disposition": b"--b\r\n\r\nx\r\n" + END,
    "two dispositions": b'--b\r\ncontent-disposition: form-data; name="n"\r\n' + MODEL[5:] + END,
    "a folded field": MODEL.replace(b"; name", b";\r\n name") + END,
    "an unquoted name": MODEL.replace(b'"model"', b"model") + END,
    "an escaped name": MODEL.replace(b"model", b'mo\\"del') + END,
    "a name twice": MODEL.replace(b'"model"', b'"n"; name="model"') + END,
    "an encoded part": MODEL.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END,
    "line feeds alone": (MODEL + END).replace(b"\r\n", b"\n"),
    "a long head": MODEL.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 2000 + b"\r\n\r\n") + END,
    "nothing": b"",
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_an_odd_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidCall) as refused:
        parse_form(body, b"b")
    assert refused.value.code == "invalid_form"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (MODEL + MODEL + END, "duplicate_field", "model"),
        (FILE.replace(b'"file"', b'"model"') + END, "invalid_type", "model"),
        (MODEL.replace(b'"model"', b'"file"') + END, "invalid_type", "file"),
        (MODEL.replace(b"whisper-1", b"\xff") + END, "invalid_type", "model"),
        (MODEL.replace(b"whisper-1", b"x" * 300_000) + END, "invalid_value", "model"),
    ],
)
def test_a_field_that_could_be_read_in_two_ways_is_refused(body: bytes, code: str, param: str) -> None:
    with pytest.raises(InvalidCall) as refused:
        parse_form(body, b"b")
    assert (refused.value.code, refused.value.param) == (code, param)


def test_a_file_may_be_named_in_the_newer_way() -> None:
    newer = FILE.replace(b'filename="a.mp3"', b"filename*=utf-8''gr%C3%BC%C3%9Fe.mp3")
    assert parse_form(MODEL + newer + END, b"b").files == 1


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(InvalidCall):
        parse_form(b"".join(part(f"f{n}", "x") for n in range(200)) + END, b"b")


def test_only_the_models_name_is_changed() -> None:
    body = part("language", "de") + MODEL + FILE + END
    form = parse_form(body, b"b")
    assert b"".join(map(bytes, patched_form(body, form, {}))) == body
    sent = b"".join(map(bytes, patched_form(body, form, {"model": "gpt-4o-transcribe"})))
    assert sent == body.replace(b"whisper-1", b"gpt-4o-transcribe")


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_form_or_a_refusal(noise: bytes, at: int) -> None:
    body = MODEL + FILE + END
    for odd in (noise, body[:at] + noise + body[at:]):
        try:
            parse_form(odd, b"b")
        except InvalidCall as refused:
            assert refused.status == 400  # noqa: PT017 - most of them are
