"""The example's app: it passes on what it is asked to a model, and knows nothing of Tollhouse but OPENAI_BASE_URL.

`python app.py` answers GET /?q=… on port 8000, `python app.py once` asks one question and ends.
"""

import http.server
import json
import os
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request


def ask(question: str) -> str:
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": os.environ["MODEL"], "messages": [{"role": "user", "content": question}]}).encode(),
        {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        question = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("q", [""])[0]
        try:
            status, text = 200, ask(question) if question else "Ask with ?q=\n"
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    # A container's first process is not ended by a signal that it has no handler for: the pod would wait for its whole grace period, and
    # the sidecar, which is stopped after the app, with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if sys.argv[1:] == ["once"]:
        print(ask("What happened today?"), flush=True)
    else:
        http.server.ThreadingHTTPServer(("", 8000), Page).serve_forever()
