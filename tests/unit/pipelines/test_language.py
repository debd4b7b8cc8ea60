"""The client against real servers: the small local model where its file is, and a server of ours that misbehaves."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from pipelines.machine.assets import LANGUAGE_MODEL, language_model_file
from pipelines.machine.cache import cache_dir
from pipelines.models.chat import ModelCallError, language_model
from pipelines.settings.sections import LanguageModelSettings, Settings
from transformations.errors import ConfigurationError, LakeloopError

MESSAGES = [{"role": "user", "content": "What is a fixture?"}]


def settings_for(base_url: str, *, timeout_seconds: float = 5) -> Settings:
    return Settings(
        language_model=LanguageModelSettings(base_url=base_url, model="tiny", timeout_seconds=timeout_seconds)
    )


class Served(BaseHTTPRequestHandler):
    """Speaks the protocol; answers with what its class says."""

    status = 200
    body: object = None
    wait: threading.Event | None = None
    location = ""

    def do_GET(self) -> None:
        self.send_error(404)

    asked: ClassVar[list[tuple[str, str, object]]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], asked.get("model")))
        if self.wait is not None:
            self.wait.wait(10)
        content = json.dumps(self.body).encode()
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.send_header("Content-Type", "application/json")
        # The client need not wait before it tries again.
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[tuple[str, type[Served]]]:
    handler = type("Handler", (Served,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", handler
        finally:
            if handler.wait is not None:
                handler.wait.set()
            server.shutdown()
            thread.join()


def completion(text: str | None) -> dict[str, object]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny-2026",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    }


def test_a_served_model_answers_with_its_tokens_and_its_own_name(served):
    url, handler = served
    handler.body = completion(" A function. ")
    with language_model(settings_for(url)) as model:
        found = model.complete(MESSAGES, max_tokens=8)
    assert (found.text, found.input_tokens, found.output_tokens, found.model) == ("A function.", 12, 3, "tiny-2026")
    assert model.source_chars is None


@pytest.fixture
def no_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing in the surroundings says who calls Databricks."""
    for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "ARM_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # without the CLIs that could be logged in


def test_an_endpoint_of_databricks_is_called_by_the_identity_of_the_process(served, no_identity, monkeypatch):
    url, handler = served
    handler.body = completion("A function.")
    monkeypatch.setenv("DATABRICKS_HOST", url.removesuffix("/v1"))
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-the-job")
    settings = settings_for("databricks://chat")
    with language_model(settings) as model:
        assert model.complete(MESSAGES, max_tokens=8).text == "A function."
    assert model.name == "chat"
    assert handler.asked == [("/serving-endpoints/chat/completions", "Bearer dapi-of-the-job", "chat")]
    assert "dapi-of-the-job" not in repr(settings)


def test_no_redirect_takes_the_identity_to_another_host(served, no_identity, monkeypatch):
    url, handler = served
    with HTTPServer(("127.0.0.1", 0), type("Other", (Served,), {"asked": []})) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        handler.status, handler.location = 307, f"http://127.0.0.1:{other.server_port}/elsewhere"
        monkeypatch.setenv("DATABRICKS_HOST", url.removesuffix("/v1"))
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-the-job")
        with language_model(settings_for("databricks://chat")) as model, pytest.raises(ModelCallError) as error:
            model.complete(MESSAGES, max_tokens=8)
        other.shutdown()
    assert error.value.status_code == 307
    assert other.RequestHandlerClass.asked == []


def test_without_an_identity_an_endpoint_of_databricks_is_an_error_that_says_so(no_identity):
    said = "databricks://chat, but nothing says who calls it"
    with pytest.raises(ConfigurationError, match=said), language_model(settings_for("databricks://chat")):
        pass


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, {"error": {"message": "out of memory"}}, 500),
        (401, {"error": {"message": "no such key"}}, 401),
        (200, completion(None), 502),
        (200, {"choices": []}, 502),
        (200, "hello", 502),
    ],
)
def test_a_call_that_fails_says_which_server_and_keeps_the_status(served, status, body, expected):
    url, handler = served
    handler.status, handler.body = status, body
    with (
        language_model(settings_for(url)) as model,
        pytest.raises(ModelCallError, match=r"tiny.*127\.0\.0\.1") as error,
    ):
        model.complete(MESSAGES, max_tokens=8)
    assert error.value.status_code == expected


def test_an_answer_that_does_not_come_in_time_is_504(served):
    url, handler = served
    handler.body, handler.wait = completion("late"), threading.Event()
    with (
        language_model(settings_for(url, timeout_seconds=0.1)) as model,
        pytest.raises(ModelCallError, match="timeout_seconds") as error,
    ):
        model.complete(MESSAGES, max_tokens=8)
    assert error.value.status_code == 504


def test_a_server_that_is_not_there_is_named_before_any_question_is_asked():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(LakeloopError, match=r"no language model at .*base_url"), language_model(settings_for(url)):
        pass


def test_without_its_file_the_local_model_says_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="lakeloop setup"), language_model(Settings()):
        pass


@pytest.fixture
def local_model_file():
    try:
        return language_model_file()
    except ConfigurationError:
        pytest.skip(f"the small language model is not in the cache ({cache_dir() / LANGUAGE_MODEL.path})")


def test_the_local_model_answers_the_same_twice_says_nothing_and_frees_its_port(local_model_file, capfd):
    settings = Settings(language_model=LanguageModelSettings(timeout_seconds=300))
    with language_model(settings) as model:
        address = model._client.base_url
        first = model.complete(MESSAGES, max_tokens=8)
        again = model.complete(MESSAGES, max_tokens=8)
    assert first.text
    assert first.text == again.text
    assert first.input_tokens > 5
    assert 1 <= first.output_tokens <= 8
    assert capfd.readouterr() == ("", "")
    with socket.socket() as probe:
        assert probe.connect_ex((address.host, address.port)) != 0
