"""Asks a judge model whether the sources say that an answer is the answer to the question.

An answer can stand in a source and still be the answer to another question, which code does not always see. If that
matters, a larger model is asked, with its own versioned prompt. Its verdict is logged with the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.models.chat import LanguageModel, language_model
from pipelines.models.prompts import Prompt, judge_prompt
from pipelines.settings.sections import LanguageModelSettings, Settings

_MAX_TOKENS = 8
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """What the judge said; `says_so` is None if it said neither yes nor no."""

    says_so: bool | None
    text: str
    model: str
    prompt_uri: str


class Judge:
    """A judge model, ready to be asked."""

    def __init__(self, model: LanguageModel, prompt: Prompt) -> None:
        self._model, self._prompt = model, prompt

    def ask(self, question: str, *, answer: str, sources: Sequence[tuple[str, str]]) -> Verdict:
        """Whether the sources, as (title, text), say that `answer` is the answer to `question`.

        Raises:
            ModelCallError: the judge did not answer.
        """
        messages = self._prompt.messages(question, sources=sources, answer=answer)
        text = self._model.complete(messages, max_tokens=_MAX_TOKENS).text
        found = _VERDICT.match(text)
        return Verdict(found[1].lower() == "yes" if found else None, text, self._model.name, self._prompt.uri)

    def check_reachable(self) -> None:
        """Raises LakeloopError if its server is gone."""
        self._model.check_reachable()


@contextmanager
def judge_of(settings: Settings) -> Iterator[Judge | None]:
    """The judge of the settings; None if they name none.

    Raises:
        LakeloopError: its server cannot be reached.
    """
    chosen = settings.answers
    if chosen.judge_url is None:
        yield None
        return
    served = LanguageModelSettings(
        base_url=chosen.judge_url,
        model=chosen.judge_model,
        api_key=chosen.judge_api_key,
        timeout_seconds=settings.language_model.timeout_seconds,
    )
    judging = settings.model_copy(update={"language_model": served})
    with language_model(judging, setting="answers.judge_url") as model:
        yield Judge(model, judge_prompt(settings))
