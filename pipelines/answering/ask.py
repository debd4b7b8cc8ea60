"""`Answerer`: answers questions from the index, with sources; each call is logged and traced. No Spark for folders.

    question ─ search ─ are the best chunks about it? ─ language model ─ do they support its answer?
                         └─ no: the sources do not tell                   ├─ yes: the model's answer
                                                                          └─ no:  the best passage, as a quotation,
                                                                                  or: the sources do not tell

Each call is one row of inference.inference_log and one trace in MLflow, whether it succeeds or not.
"""

from __future__ import annotations

import getpass
import logging
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pipelines.answering.log_row import INFERENCE_LOG, STATUS_OK, Call, log_row
from pipelines.answering.search import Searcher
from pipelines.answering.sources import Source, is_off_topic, shown_of, sources_of
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.session import get_spark
from pipelines.lakehouse.tables import Lakehouse
from pipelines.models.chat import Completion, LanguageModel, ModelCallError, language_model
from pipelines.models.judge import Judge, Verdict, judge_of
from pipelines.models.prompts import STOP, answer_prompt
from pipelines.models.tracking import OURS, connect
from pipelines.settings.sections import Settings
from pipelines.stores import Hit, Manifest
from transformations.answers.grounding import Grounding, check_grounding, finished, quote
from transformations.errors import ConfigurationError, LakeloopError
from transformations.tables.filters import Filter

log = logging.getLogger(__name__)

MAX_QUESTION_CHARS = 2_000
NOT_TOLD = "The sources do not tell."
_NOTHING_FOUND = "The index holds nothing to answer from."
_STATUS_BAD_REQUEST = 400
# The trace id that MLflow gives if it could not begin a trace.
_NO_TRACE = "MLFLOW_NO_OP_SPAN_TRACE_ID"


class Search(Protocol):
    """The methods of a Searcher that an Answerer uses."""

    def manifest(self) -> Manifest: ...

    def search(self, query: str, *, k: int, where: Filter | None = None) -> list[Hit]: ...


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: the model's answer; or a quotation with its place; or a sentence that there is no answer.
        is_grounded: `text` is the model's answer, and the check found it supported by its sources.
        is_quoted: `text` is a passage of a source, because the model's answer was not supported.
        sources: the retrieved chunks, best first; the first `answers.context_chunks` were shown to the model.
        model: name/version of the language model.
        seconds: duration of the whole call.
        trace_id: the id of the trace in MLflow; "" if MLflow recorded none.
    """

    question: str
    text: str
    is_grounded: bool
    is_quoted: bool
    sources: list[Hit]
    model: str
    input_tokens: int
    output_tokens: int
    seconds: float
    trace_id: str
    request_id: str


@dataclass(frozen=True)
class Response:
    """The result of a call: its row for the log, and either the answer or the error."""

    row: dict[str, Any]
    answer: Answer | None = None
    error: ModelCallError | None = None


class NotLoggedError(LakeloopError):
    """A question was answered, but the row for the log could not be written. `answer` is the answer."""

    def __init__(self, answer: Answer, error: Exception) -> None:
        super().__init__(
            f"the answer was given, but {INFERENCE_LOG} lacks its row (request {answer.request_id}): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}. See that the table can be written, and ask "
            "again."
        )
        self.answer = answer


class Answerer:
    """Answers questions; a context manager that holds the models, the index and the prompt open.

    Args:
        settings: which models and which index.
        lake: where calls are logged; by default that of the settings.
        searcher: finds chunks; by default a `Searcher` of the settings' index, opened on entry.

    Raises (on entry):
        ConfigurationError: no index yet, an index of another model, MLflow cannot be used.
        LakeloopError: the language model's server cannot be reached.
    """

    def __init__(self, settings: Settings, *, lake: Lakehouse | None = None, searcher: Search | None = None) -> None:
        self._settings = settings
        self._lake = lake or open_lakehouse(settings, spark=lambda: get_spark(settings))
        self._given_searcher = searcher
        self._stack = ExitStack()

    def __enter__(self) -> Answerer:
        self._searcher: Search = self._given_searcher or Searcher(self._settings)
        self._prompt = answer_prompt(self._settings)
        self._mlflow = connect(self._settings)
        self.model: LanguageModel = self._stack.enter_context(language_model(self._settings))
        self._judge: Judge | None = self._stack.enter_context(judge_of(self._settings))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def check_reachable(self) -> None:
        """Check that the servers of the language model and of the judge can be reached.

        Raises:
            LakeloopError: one of them cannot.
        """
        self.model.check_reachable()
        if self._judge is not None:
            self._judge.check_reachable()

    def answer(self, question: str, *, request_id: str | None = None, batch_run_id: str | None = None) -> Answer:
        """Answer `question` and log the call.

        Raises:
            ConfigurationError: the question is empty or too long, or the log cannot be written; no model was asked.
            ModelCallError: the language model or the judge failed; the call is logged with the error.
            NotLoggedError: the question was answered, but its row could not be written; the error has the answer.
        """
        problem = question_problem(question)
        if problem:
            raise ConfigurationError(problem)
        _check_writable(self._lake)
        response = self.respond(new_call(question, request_id=request_id, batch_run_id=batch_run_id))
        try:
            self._lake.append_arrow(INFERENCE_LOG, [response.row])
        except Exception as error:
            if response.answer is None:
                raise
            raise NotLoggedError(response.answer, error) from error
        if response.answer is None:
            assert response.error is not None
            raise response.error
        return response.answer

    def respond(self, call: Call) -> Response:
        """Answer without logging; the caller must append `Response.row`. A `ModelCallError` is returned, not raised."""
        started = time.monotonic()
        manifest = self._searcher.manifest()
        hits: list[Hit] = []
        completion: Completion | None = None
        messages: list[dict[str, str]] = []
        error: ModelCallError | None = None
        verdict: Verdict | None = None
        text, grounding, is_quoted, model_seconds = "", Grounding(False, 0.0, "nothing was found"), False, 0.0
        with self._mlflow.start_span("answer_question", span_type="CHAIN") as root:
            root.set_inputs({"question": call.question})
            self._mlflow.update_current_trace(
                client_request_id=call.request_id, tags={OURS: self._prompt.uri, "requester": call.requester}
            )
            try:
                problem = question_problem(call.question)
                if problem:
                    raise ModelCallError(problem, status_code=_STATUS_BAD_REQUEST)
                hits = self._retrieve(call.question)
                sources = sources_of(hits[: self._settings.answers.context_chunks])
                shown = shown_of(sources, chars=self.model.source_chars)
                if is_off_topic(hits, self._settings.answers, model=manifest.model):
                    text, grounding = NOT_TOLD, Grounding(False, 0.0, "no chunk is about the question")
                elif shown:
                    messages = self._prompt.messages(call.question, sources=shown)
                    model_started = time.monotonic()
                    try:
                        completion = self._complete(messages)
                    finally:
                        model_seconds = time.monotonic() - model_started
                    text, grounding, is_quoted, verdict = self._checked(
                        call.question, completion, sources=sources, shown=shown
                    )
                elif hits:
                    text, grounding = NOT_TOLD, Grounding(False, 0.0, "the sources only play turns of a chat")
                else:
                    text = _NOTHING_FOUND
                root.set_outputs({"answer": text, "is_grounded": grounding.is_grounded, "is_quoted": is_quoted})
            except ModelCallError as failure:
                error = failure
                root.set_status("ERROR")
                root.set_outputs({"error": str(failure), "status_code": failure.status_code})
            trace_id = root.trace_id
        if trace_id == _NO_TRACE:
            log.warning(
                "MLflow took no trace of request %s; set MLflow's log level to debug for the reason", call.request_id
            )
            trace_id = ""
        chosen = self._settings.answers
        request = {"question": call.question, "top_k": chosen.top_k, "messages": messages, **self._call_options()}
        row = log_row(
            call,
            status_code=error.status_code if error else STATUS_OK,
            request=request,
            response=_error_response(error)
            if error
            else _response(text, grounding, is_quoted, completion, hits)
            | ({"judge": vars(verdict)} if verdict else {}),
            model=(self.model.name, self.model.version),
            prompt=self._prompt,
            manifest=manifest,
            hits=hits,
            trace_id=trace_id or None,
            model_seconds=model_seconds,
            prediction=None if error else text,
            completion=completion,
        )
        if error:
            return Response(row, error=error)
        answer = Answer(
            question=call.question,
            text=text,
            is_grounded=grounding.is_grounded,
            is_quoted=is_quoted,
            sources=hits,
            model=f"{self.model.name}/{self.model.version}",
            input_tokens=completion.input_tokens if completion else 0,
            output_tokens=completion.output_tokens if completion else 0,
            seconds=time.monotonic() - started,
            trace_id=trace_id,
            request_id=call.request_id,
        )
        return Response(row, answer=answer)

    def _retrieve(self, question: str) -> list[Hit]:
        with self._mlflow.start_span("search", span_type="RETRIEVER") as span:
            span.set_inputs({"query": question, "k": self._settings.answers.top_k})
            hits = self._searcher.search(question, k=self._settings.answers.top_k)
            span.set_outputs(
                [
                    {
                        "id": h.chunk_id,
                        "page_content": h.text,
                        "metadata": {"doc_uri": h.path, "headings": list(h.heading_path), "score": h.score},
                    }
                    for h in hits
                ]
            )
        return hits

    def _complete(self, messages: list[dict[str, str]]) -> Completion:
        with self._mlflow.start_span(self.model.name, span_type="CHAT_MODEL") as span:
            span.set_inputs({"messages": messages, **self._call_options()})
            completion = self.model.complete(messages, max_tokens=self._settings.language_model.max_tokens, stop=STOP)
            span.set_outputs({"choices": [{"message": {"role": "assistant", "content": completion.text}}]})
            tokens = {"input_tokens": completion.input_tokens, "output_tokens": completion.output_tokens}
            span.set_attribute("mlflow.chat.tokenUsage", {**tokens, "total_tokens": sum(tokens.values())})
        return completion

    def _call_options(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "max_tokens": self._settings.language_model.max_tokens,
            "temperature": 0,
            "stop": STOP,
        }

    def _checked(
        self, question: str, completion: Completion, *, sources: Sequence[Source], shown: Sequence[tuple[str, str]]
    ) -> tuple[str, Grounding, bool, Verdict | None]:
        """Check the model's answer against its sources.

        Returns the text to give, the result of the check, whether the text is a quotation, and the judge's verdict
        (None if no judge was asked).
        """
        answer = finished(completion.text, is_cut=completion.is_cut)
        verdict = None
        grounding = check_grounding(
            answer,
            question=question,
            sources=[f"{source.title}\n\n{source.text}" for source in sources],
            min_ratio=self._settings.answers.min_grounded_ratio,
            is_judged_elsewhere=self._judge is not None,
        )
        if grounding.is_grounded and self._judge is not None:
            verdict = self._judge.ask(question, answer=answer, sources=shown)
            if not verdict.says_so:
                grounding = Grounding(False, grounding.ratio, "the judge model does not say that the sources say so")
        if grounding.is_grounded:
            return answer, grounding, False, verdict
        quotation = quote(question, sources=[source.text for source in sources])
        if quotation is None:
            return NOT_TOLD, grounding, False, verdict
        lines = "\n".join(f"> {line}".rstrip() for line in quotation.text.splitlines())
        return f"Quoted from {sources[quotation.source].place}:\n\n{lines}", grounding, True, verdict


def new_call(
    question: str,
    *,
    request_id: str | None = None,
    client_request_id: str | None = None,
    requester: str | None = None,
    batch_run_id: str | None = None,
) -> Call:
    """A call that is received now; by default with a new id, and from the user of this process."""
    return Call(
        request_id=request_id or str(uuid.uuid4()),
        # A terminal in another encoding passes on lone surrogates, which no table can store.
        question=question.encode("utf-8", "replace").decode("utf-8"),
        requested_at=datetime.now(timezone.utc),
        requester=requester or current_user(),
        client_request_id=client_request_id,
        batch_run_id=batch_run_id,
    )


def _check_writable(lake: Lakehouse) -> None:
    """Check, before a model is asked, that the log can be written; only a folder of this machine says so.

    Raises:
        ConfigurationError: its folder cannot be written.
    """
    folder = lake.folder(INFERENCE_LOG)
    if not isinstance(folder, Path):
        return
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{there} cannot be written, and no answer goes unlogged: nothing was asked. Work on a copy of the "
            "workspace that you may write, or look things up with lakeloop search, which writes nothing."
        )


def question_problem(question: str) -> str | None:
    """Why `question` cannot be asked; None if it can."""
    if not question.strip():
        return "the question is empty: say what to answer"
    if len(question) > MAX_QUESTION_CHARS:
        return f"the question has {len(question)} characters, at most {MAX_QUESTION_CHARS} can be asked: shorten it"
    return None


def current_user() -> str:
    """The user of this process; "unknown" if the system has no name for the user, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _response(
    text: str, grounding: Grounding, is_quoted: bool, completion: Completion | None, hits: Sequence[Hit]
) -> dict[str, Any]:
    return {
        "answer": text,
        "model_text": completion.text if completion else None,
        "model": completion.model if completion else None,
        "is_grounded": grounding.is_grounded,
        "is_quoted": is_quoted,
        "grounded_ratio": round(grounding.ratio, 4),
        "reason": grounding.reason,
        "sources": [{"path": h.path, "heading_path": list(h.heading_path), "score": round(h.score, 4)} for h in hits],
    }


def _error_response(error: ModelCallError) -> dict[str, Any]:
    return {"error": {"status_code": error.status_code, "message": str(error)}}
