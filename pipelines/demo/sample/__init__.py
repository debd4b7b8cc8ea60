"""A small workspace of made files: two deliveries of documents and records, and questions with their answers' places.

Its files lie beside this module, so that it needs no network (the models must be in the cache). It is what a notebook
looks at where no other workspace is named.
"""

from __future__ import annotations

import os
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from pipelines.answering.questions import read_questions
from pipelines.conductor.run import new_context, run_stages
from pipelines.demo.workspace import check_environment
from pipelines.flow.lock import only_writer
from pipelines.inference.answer_questions import add_questions
from pipelines.settings.layers import FILE_NAME
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

_DELIVERIES = ("first", "second")
# What the second delivery takes away.
_GONE = "landing/rental.md"
# Is there once all of it was made.
_MADE = ".sample"


def sample(folder: Path) -> Settings:
    """The settings of the sample in `folder`, which is made if it is not there: that takes a minute.

    Raises:
        ConfigurationError: the folder holds something else, or a sample that was not made to its end; or the
            environment names tables or an index that are not the sample's.
    """
    check_environment(os.environ, command="sample")
    if not (folder.is_dir() and any(folder.iterdir())):
        _make(folder)
    if not (folder / _MADE).is_file():
        raise ConfigurationError(
            f"sample: {folder} holds something else, or a sample that was not made to its end. Name another folder, or "
            "remove this one."
        )
    return load_settings(folder / FILE_NAME)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files(__name__)) as source:
        shutil.copyfile(source / FILE_NAME, folder / FILE_NAME)
        settings = load_settings(folder / FILE_NAME)
        for name in _DELIVERIES:
            shutil.copytree(source / name, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            if name != _DELIVERIES[0]:
                (folder / _GONE).unlink()
                with only_writer(settings):
                    add_questions(new_context(settings), read_questions(source / "questions.jsonl"), batch="sample")
            run_stages(new_context(settings))
    (folder / _MADE).touch()
