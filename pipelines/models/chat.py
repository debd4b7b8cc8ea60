"""The client of language models: chat messages in, the model's answer and its number of tokens out.

There is one client for every model, the `openai` library. It talks to the server that the settings name; to a serving
endpoint of Databricks by the identity of this process (`databricks://endpoint`), so that no key is written anywhere;
or, if they name none, to a small model that llama.cpp serves inside this process on loopback. Code that works with one
works with the others.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.settings.sections import LanguageModelSettings, Settings
from transformations.errors import ConfigurationError, LakeloopError, MissingDependencyError

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

# On two idle cores the local model reads some 330 tokens a second and writes 130. This many characters of sources make
# a prompt of 290 tokens. With more the model copied less and invented more: of the answers to 42 questions, 14 were
# grounded with two chunks in 1,300 characters, and 10 with three chunks in 1,900.
LOCAL_SOURCE_CHARS = 1_300
_LOCAL_CONTEXT_TOKENS = 2_048
_PROBE_SECONDS = 10.0
_SETTING = "language_model.base_url"
# Before the name of a serving endpoint of Databricks.
DATABRICKS = "databricks://"


class ModelCallError(LakeloopError):
    """One call failed. `status_code` is the server's; 502 for an unusable answer, 503 for no connection, 504 for no
    answer in time."""

    def __init__(self, message: str, *, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


@dataclass(frozen=True)
class Completion:
    """One answer of a model.

    Attributes:
        text: what it wrote, without blanks at either end.
        input_tokens: tokens of the prompt; 0 if the server does not say.
        output_tokens: tokens of the answer; 0 if the server does not say.
        model: its name, as the server gives it.
        is_cut: whether the limit of tokens cut it off.
    """

    text: str
    input_tokens: int
    output_tokens: int
    model: str
    is_cut: bool = False


class LanguageModel:
    """A model behind an OpenAI-compatible server.

    Attributes:
        name: the model's name in the settings.
        version: the version of its weights if it is known, else "served".
        source_chars: how many characters of sources a prompt should hold; None: the model sets no limit.
    """

    def __init__(
        self, client: OpenAI, *, name: str, version: str, source_chars: int | None, setting: str = _SETTING
    ) -> None:
        self._client, self._setting = client, setting
        self.name = name
        self.version = version
        self.source_chars = source_chars

    def complete(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> Completion:
        """The model's answer at temperature 0; it ends before any of the texts in `stop`.

        Raises:
            ModelCallError: no connection, no answer in time, an error of the server, or an answer without text.
        """
        import openai

        try:
            reply: Any = self._client.chat.completions.create(
                model=self.name,
                messages=[{"role": m["role"], "content": m["content"]} for m in messages],  # type: ignore[misc]
                max_tokens=max_tokens,
                temperature=0,
                stop=list(stop) or None,
            )
        except openai.APITimeoutError:
            raise ModelCallError(f"{self._server} gave no answer in time (timeout_seconds)", status_code=504) from None
        except openai.APIConnectionError as error:
            raise ModelCallError(f"{self._server} cannot be reached: {_cause(error)}", status_code=503) from None
        except openai.APIStatusError as error:
            text = f"{self._server} answered {error.status_code}: {error.message}"
            raise ModelCallError(text, status_code=error.status_code) from None
        except openai.OpenAIError as error:
            raise ModelCallError(f"{self._server} gave an unusable answer: {error}", status_code=502) from None
        choices = getattr(reply, "choices", None)
        written: str | None = choices[0].message.content if choices else None
        if written is None:
            raise ModelCallError(f"{self._server} answered without text: {str(reply)[:200]}", status_code=502)
        usage = reply.usage
        return Completion(
            text=written.strip(),
            input_tokens=usage.prompt_tokens if usage else 0,
            output_tokens=usage.completion_tokens if usage else 0,
            model=reply.model or self.name,
            is_cut=getattr(choices[0], "finish_reason", None) == "length" if choices else False,
        )

    def check_reachable(self) -> None:
        """Ask for the server's list of models; any answer shows that the server is there.

        Raises:
            LakeloopError: no connection.
        """
        import openai

        try:
            self._client.with_options(max_retries=0, timeout=_PROBE_SECONDS).models.with_raw_response.list()
        except openai.APIConnectionError as error:
            raise LakeloopError(
                f"no language model at {self._client.base_url} ({self._setting}): {_cause(error)}. Start the server, "
                "correct the address, or remove the setting to go without it."
            ) from None
        except openai.OpenAIError as error:
            log.debug("%s has no list of models: %s", self._server, error)

    @property
    def _server(self) -> str:
        return f"the language model {self.name!r} at {self._client.base_url}"


@contextmanager
def language_model(settings: Settings, *, setting: str = _SETTING) -> Iterator[LanguageModel]:
    """The model of the settings, ready to be called; the local server ends with the block.

    The local model starts in some 0.5 s. Its server listens on loopback only, on a free port, and wants a key that only
    this process knows.

    Args:
        setting: the name of the setting with the server's address, for errors.

    Raises:
        LakeloopError: the server cannot be reached.
        ConfigurationError: the local model's file cannot be used.
        MissingDependencyError: `openai`, or `xllamacpp` for the local model, is not installed.
    """
    try:
        import openai
    except ImportError:
        raise MissingDependencyError.for_extra("openai", "language") from None

    chosen = settings.language_model
    if chosen.base_url is not None:
        address, name, options = _served(chosen, setting=setting)
        with openai.OpenAI(base_url=address, timeout=chosen.timeout_seconds, **options) as client:
            model = LanguageModel(client, name=name, version="served", source_chars=None, setting=setting)
            model.check_reachable()
            yield model
        return

    from pipelines.machine.assets import language_model_file

    file = language_model_file()
    key = secrets.token_hex(16)
    server = _serve(str(file), name=chosen.model, key=key)
    # Calls to loopback must not go through a proxy that the environment names.
    transport = openai.DefaultHttpxClient(trust_env=False)
    try:
        with openai.OpenAI(
            base_url=f"{server.listening_address}/v1",
            api_key=key,
            timeout=chosen.timeout_seconds,
            max_retries=0,
            http_client=transport,
        ) as client:
            yield LanguageModel(client, name=chosen.model, version=_LOCAL_VERSION, source_chars=LOCAL_SOURCE_CHARS)
    finally:
        # The server has no method to stop it: it ends, and frees its port, with its last reference.
        del server


def _served(chosen: LanguageModelSettings, *, setting: str) -> tuple[str, str, dict[str, Any]]:
    """The address of the server, the model's name there, and what the client needs to be let in."""
    assert chosen.base_url is not None
    if not chosen.base_url.startswith(DATABRICKS):
        return (
            chosen.base_url,
            chosen.model,
            {"api_key": chosen.api_key.get_secret_value() if chosen.api_key else "none"},
        )
    import openai

    try:
        from databricks.sdk.core import Config
    except ImportError:
        raise MissingDependencyError.for_extra("databricks-sdk", "mlflow") from None
    try:
        identity = Config()
        identity.authenticate()
    except Exception as error:  # of the SDK, or of what it asks for a token
        raise ConfigurationError(
            f"{setting} is {chosen.base_url}, but nothing says who calls it "
            f"({str(error)[:300] or type(error).__name__}). On Databricks it is the job's own identity. "
            "Elsewhere log in with the Databricks CLI, or set DATABRICKS_HOST and the variables of your credentials."
        ) from None

    def signed(request: Any) -> Any:
        request.headers.update(identity.authenticate())  # a new token as soon as the old one ends
        return request

    # A redirect to another host would take the tokens along.
    transport = openai.DefaultHttpxClient(auth=signed, follow_redirects=False)
    address = f"{str(identity.host).rstrip('/')}/serving-endpoints"
    return address, chosen.base_url.removeprefix(DATABRICKS), {"api_key": "none", "http_client": transport}


# The version of the wheel whose file pipelines/machine/assets.py pins by hash, and the file's quantisation.
_LOCAL_VERSION = "0.1.2-q4_1"


def _serve(file: str, *, name: str, key: str) -> Any:
    # Threads that wait for each other by spinning starve one another on a busy machine (100 times slower was seen), and
    # threads that never spin are half as fast on an idle one. So they spin for some microseconds, then sleep. The
    # OpenMP runtime reads this when the import loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        import xllamacpp
    except ImportError:
        raise MissingDependencyError.for_extra("xllamacpp", "language") from None

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {name}
    params.n_ctx = _LOCAL_CONTEXT_TOKENS
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _cores()
    # Otherwise llama.cpp prints to stderr, whatever Python's logging says.
    params.verbosity = 0
    # A prompt is never used again; by default up to 8 GB of them would be kept.
    params.cache_ram_mib = 0
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.cors_origins = ""
    params.ui = False
    params.endpoint_slots = False
    try:
        return xllamacpp.Server(params)
    except Exception as error:
        raise ConfigurationError(
            f"the language model's file {file} cannot be used: {error}. Remove it and try again."
        ) from error


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cause(error: BaseException) -> str:
    return str(error.__cause__ or error)
