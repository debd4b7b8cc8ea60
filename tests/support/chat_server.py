"""A language model's server on loopback that answers, fails, is late or goes away, as the question says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from tests.support.answering import GROUNDED, INVENTED


class Model(BaseHTTPRequestHandler):
    """A model that answers by what is in the question."""

    asked: list[str]
    gone_after: int | None = None
    is_late = True
    text: str = GROUNDED
    verdict: str = "yes"
    judge_status = 200

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][-1]["content"]
        self.asked.append(prompt)
        if self.gone_after is not None and len(self.asked) > self.gone_after:
            threading.Thread(target=self.server.shutdown).start()
            self.server.socket.close()
            self.connection.close()
            return
        status, text = (500, "") if "BREAK" in prompt else (200, INVENTED if "INVENT" in prompt else self.text)
        if "Proposed answer:" in prompt:
            status, text = self.judge_status, self.verdict
        status = 504 if "LATE" in prompt and self.is_late else status
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [message],
            "usage": usage,
        }
        content = json.dumps(reply if status == 200 else {"error": {"message": "broken"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, type[Model]]]:
    handler = type("Handler", (Model,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
