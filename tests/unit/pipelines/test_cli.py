"""The command line itself: its version, and what a shell completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.cli.main import main
from pipelines.operations import status
from transformations.errors import EXIT_INTERRUPTED

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder that completion is installed in, for the shell that is named."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_version_is_told_as_text_and_as_json(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"lakeloop {version('lakeloop')}\n"
    for arguments in (["--version", "--json"], ["--json", "--version"]):
        main(arguments)
        assert json.loads(capsys.readouterr().out) == {"lakeloop": version("lakeloop")}


@pytest.mark.parametrize("arguments", [["--json"], ["--json", "status"]])
def test_an_option_of_a_command_is_refused_in_front_of_it(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "Only --version takes --json here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("lakeloop sy", "sync-index"), ("lakeloop sync-index --take", "--take-over"), ("lakeloop --ver", "--version")],
)
def test_a_shell_completes_commands_and_options(typed, expected, home, monkeypatch, capsys):
    monkeypatch.setenv("_LAKELOOP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    main([])
    assert capsys.readouterr().out.split() == [expected]


def test_the_completion_of_a_shell_is_shown_and_installed(home, capsys):
    main(["--show-completion", "bash"])
    assert "_LAKELOOP_COMPLETE=complete_bash" in capsys.readouterr().out
    main(["--install-completion", "bash"])
    script = home / ".bash_completions" / "lakeloop.sh"
    assert "_LAKELOOP_COMPLETE=complete_bash" in script.read_text(encoding="utf-8")
    assert str(script) in (home / ".bashrc").read_text(encoding="utf-8")


def test_forget_says_whose_text_goes(capsys):
    main(["forget", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "Whose text goes: that of the one document" in told


def test_an_error_before_the_log_is_open_stands_once_on_a_terminal_without_utf_8(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", "status", "--config", "Grüße/☃.yml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    told = done.stderr.decode("ascii")
    assert done.returncode == 5, told
    assert len(told.splitlines()) == 1, told
    assert "Gr\\xfc\\xdfe/\\u2603.yml" in told


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    def interrupted(settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(status, "describe", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == EXIT_INTERRUPTED
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == "interrupted: run the same command again, it goes on from there"
    assert "Traceback" not in told
