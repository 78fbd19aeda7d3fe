"""What the `tollhouse` command can do. Each verb is a module of `proxy.commands`."""

from collections.abc import Mapping

VERBS: Mapping[str, str] = {
    "serve": "run the proxy",
    "demo": "a pretend upstream, the proxy, and a guided tour of real calls through it",
    "check": "report every mistake in policy files, and what looks unintended",
    "keys": "make a key: `tollhouse keys new ID`",
    "usage": "tokens, cost, provenance and holds by key, user, model or day: a table with bars, JSON or CSV",
    "reconcile": "compare what was booked with a provider's export of costs or usage, line by line where they differ",
    "inject": "the webhook that puts the sidecar into pods that ask for it",
    "schema": "print the JSON Schema of the policy file, for editors",
    "healthcheck": "ask a running proxy whether it is healthy; exit 0 or 1",
}
