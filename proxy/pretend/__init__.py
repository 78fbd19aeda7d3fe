"""A pretend OpenAI-compatible upstream: it answers every metered surface in the right form, and asks no model.

It is for trying Tollhouse without a key. Its answers say what they are, every response carries `x-pretend: true`, and its usage is
made up: a word is a token, and so is a token id that was sent as one. It looks at what decides cost and form (model, caps, n,
best_of, stream, stream_options, dimensions, encoding_format) and ignores the rest; it stores nothing and checks no key.
The rule a reader could break: the wire form is OpenAI's to the letter, because apps are tried against it before they meet the real one.
Source: facts of the OpenAI API, sections 2 to 5 and 7.
"""

from proxy.pretend.server import Pretend

__all__ = ["Pretend"]
