"""What a realtime server says, for scripts of a fake one."""

from collections.abc import Callable, Coroutine
from typing import Any

from tests.sockets import Link

# 40 plain and 20 cached tokens of text, 40 of sound; 10 of text and 40 of sound made.
USAGE = {
    "total_tokens": 150,
    "input_tokens": 100,
    "output_tokens": 50,
    "input_token_details": {
        "text_tokens": 60,
        "audio_tokens": 40,
        "image_tokens": 0,
        "cached_tokens": 20,
        "cached_tokens_details": {"text_tokens": 20, "audio_tokens": 0},
    },
    "output_token_details": {"text_tokens": 10, "audio_tokens": 40},
}
COST_NANOUSD = 4_170_000  # of USAGE with gpt-realtime
CREATED = {"type": "session.created", "event_id": "e", "session": {"type": "realtime", "max_output_tokens": "inf"}}


def response(id: str = "resp_1", **more: Any) -> dict[str, Any]:
    return {"id": id, "object": "realtime.response", "status": "in_progress", "conversation_id": "conv", **more}


def created(id: str = "resp_1") -> dict[str, Any]:
    return {"type": "response.created", "event_id": "e", "response": response(id)}


def delta(text: str, id: str = "resp_1") -> dict[str, Any]:
    return {"type": "response.output_text.delta", "event_id": "e", "response_id": id, "item_id": "i", "delta": text}


def sound(data: str, id: str = "resp_1") -> dict[str, Any]:
    return {"type": "response.output_audio.delta", "event_id": "e", "response_id": id, "item_id": "i", "delta": data}


def done(id: str = "resp_1", *, status: str = "completed", usage: Any = USAGE) -> dict[str, Any]:
    return {"type": "response.done", "event_id": "e", "response": response(id, status=status, usage=usage)}


def answering(*, usage: Any = USAGE) -> Callable[[Link], Coroutine[Any, Any, None]]:
    """A server that confirms changes of the session and answers what it is asked."""

    async def script(link: Link) -> None:
        await link.say(CREATED)
        count = 0
        while True:
            event = await link.event()
            if event["type"] == "session.update":
                await link.say({"type": "session.updated", "event_id": "e", "session": event["session"]})
            elif event["type"] == "response.create":
                count += 1
                await link.say(created(f"resp_{count}"), delta("Hi", f"resp_{count}"), done(f"resp_{count}", usage=usage))

    return script
