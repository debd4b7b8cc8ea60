"""The outcome of a run: the counts or the failure of each stage, the JSON that a command prints, and its exit code."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.flow.stage import Counts, Subject
from transformations.errors import (
    EXIT_DONE,
    EXIT_NOTHING_TO_DO,
    EXIT_SET_ASIDE,
    LakeloopError,
    SeveralFailedError,
    first_line,
)


@dataclass(frozen=True)
class StageOutcome:
    """What one stage did, for the one subject that it ran for."""

    stage: str
    counts: Counts
    seconds: float
    subject: Subject | None = None


@dataclass(frozen=True)
class Failure:
    """A stage that failed, or (`error` is None) did not run because a stage that it depends on failed."""

    stage: str
    error: Exception | None
    subject: Subject | None = None

    def __str__(self) -> str:
        what = f"{self.stage} of {self.subject.name}" if self.subject else self.stage
        if self.error is None:
            return f"{what}: did not run, for what it reads was not brought up to date"
        text = str(self.error) if isinstance(self.error, LakeloopError) else first_line(self.error)
        return text if text.startswith(self.stage) else f"{what}: {text}"


@dataclass(frozen=True)
class Outcome:
    """What one run did; `stages` is empty if nothing had changed."""

    run_id: str
    stages: tuple[StageOutcome, ...]
    seconds: float
    failures: tuple[Failure, ...] = ()

    def check(self) -> None:
        """Raise the error of a failed stage; if several failed, raise one `SeveralFailedError` that names them all."""
        errors = [failure.error for failure in self.failures if failure.error is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            codes = {error.exit_code if isinstance(error, LakeloopError) else 1 for error in errors}
            lines = "\n".join(f"- {failure}" for failure in self.failures)
            error = SeveralFailedError(f"{len(errors)} stages failed, and the others went on:\n{lines}")
            error.exit_code = codes.pop() if len(codes) == 1 else 1
            raise error

    def exit_code(self, *, detailed: bool = False) -> int:
        """0: done, or nothing to do (3 if `detailed`); 6: done, and this run set rows aside."""
        if not self.stages:
            return EXIT_NOTHING_TO_DO if detailed else EXIT_DONE
        return EXIT_SET_ASIDE if any(s.counts.get("set_aside") for s in self.stages) else EXIT_DONE

    def to_json(self) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "changed": bool(self.stages),
            **({"failed": [str(failure) for failure in self.failures]} if self.failures else {}),
            "stages": [
                {
                    "stage": s.stage,
                    **({s.subject.kind: s.subject.name} if s.subject else {}),
                    "counts": dict(s.counts),
                    "seconds": round(s.seconds, 3),
                }
                for s in self.stages
            ],
            "seconds": round(self.seconds, 3),
        }
