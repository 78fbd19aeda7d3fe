"""Pictures and sound are bounded by what decides their size."""

from typing import Any

import pytest

from proxy.call import Price, Usage
from proxy.wire.surfaces import SURFACES
from proxy.wire.units import bound, spoken, used
from tests.policies.calls import FREE, a_call

TOKENS = Price(1, 1, 1, 1, 1, 1)
PIECES = Price(0, 0, 0, 0, 0, 0, unit=5)


def measured(
    surface: str, price: Price = TOKENS, *, most: int | None = None, file_bytes: int = 0, **fields: Any
) -> tuple[int, int, int]:
    """(units, input bound, output tokens of one) of a call with these fields."""
    call = a_call(surface, fields=fields, choices=fields.get("n", 1), stream=bool(fields.get("stream")))
    bound(call, price, context=16_000, most_output=most, files=1 if file_bytes else 0, file_bytes=file_bytes)
    return call.units, call.input_bound, call.uncapped


@pytest.mark.parametrize(
    ("size", "most", "tokens"),
    [
        ("1024x1024", None, 65 * 65),  # 4,160 are made at high quality
        ("1024x1536", None, 65 * 97),  # 6,240
        ("1536x1024", None, 97 * 65),
        ("1024x1024", 6250, 65 * 65),
        ("auto", 6250, 6250),
        ("9999x9999", 6250, 6250),
        ("auto", None, 241 * 241),
        (None, None, 241 * 241),
        ("odd", None, 241 * 241),
    ],
)
def test_a_picture_is_as_many_tokens_as_it_is_large(size: str | None, most: int | None, tokens: int) -> None:
    assert measured("images/generations", most=most, prompt="hat", size=size) == (1, len("hat") + len(size or ""), tokens)


def test_partial_pictures_and_more_of_them_are_bounded_too() -> None:
    units, read, each = measured("images/generations", most=100, prompt="hat", n=3, partial_images=2, stream=True)
    assert (units, read, each) == (3, 3 * len("hat"), 100 + 2 * 100)


def test_a_picture_that_is_read_is_bounded_however_small_its_bytes() -> None:
    assert measured("images/edits", most=100, prompt="hat", images=[{"file_id": "a"}, {"file_id": "b"}])[1] == 3 + 2 * 16_384
    assert measured("images/edits", most=100, prompt="hat", file_bytes=10)[1] == 3 + 16_384


def test_speech_is_as_long_as_its_text_and_longer_where_it_is_slow() -> None:
    assert measured("audio/speech", input="x" * 100) == (100, 100, 2100)
    assert measured("audio/speech", input="x" * 100, speed=0.5)[2] == 4200
    assert measured("audio/speech", input="x" * 100, speed=4)[2] == 525
    assert measured("audio/speech", input="x" * 100, speed="slow")[2] == 8400
    assert measured("audio/speech", input="")[0] == 1


def test_a_recording_is_as_long_as_its_bytes_could_be() -> None:
    assert measured("audio/transcriptions", PIECES, file_bytes=500_000) == (1_000_000, 0, 0)
    assert measured("audio/transcriptions", most=2000, file_bytes=500_000) == (1_000_000, 16_000, 2000)


def test_what_is_paid_by_the_piece_uses_no_tokens() -> None:
    assert measured("images/generations", PIECES, prompt="hat", n=2) == (2, 0, 0)


def test_a_report_in_a_measure_without_a_price_says_nothing() -> None:
    call = a_call("audio/transcriptions", units=7)
    assert used(call, PIECES, Usage(input_tokens=5)) is None
    assert used(call, TOKENS, Usage(units=5)) is None
    assert used(call, PIECES, Usage(units=5)) == Usage(units=5)
    assert used(call, FREE, Usage(input_tokens=5)) == Usage(input_tokens=5, audio_input_tokens=5)
    assert used(call, PIECES, None) is None


def test_tokens_are_of_the_surfaces_own_class_unless_the_upstream_says_otherwise() -> None:
    image = a_call("images/generations", units=1)
    assert used(image, TOKENS, Usage(5, 7)) == Usage(5, 7, image_output_tokens=7)
    assert used(image, TOKENS, Usage(5, 7, image_output_tokens=6)) == Usage(5, 7, image_output_tokens=6)
    assert used(a_call("audio/speech", units=1), TOKENS, Usage(5, 7)) == Usage(5, 7, audio_output_tokens=7)


def test_what_was_spoken_unheard_is_estimated_and_never_more_than_was_held() -> None:
    call = a_call("audio/speech", fields={"input": "x" * 100}, uncapped=2100)
    assert spoken(call).audio_output_tokens == 210
    call.uncapped = 100
    assert spoken(call).audio_output_tokens == 100


def test_every_surface_of_pictures_and_sound_is_measured() -> None:
    names = {surface.name for surface in SURFACES if surface.path.startswith(("/v1/images", "/v1/audio"))}
    assert names == {"images", "speech", "transcriptions"}
