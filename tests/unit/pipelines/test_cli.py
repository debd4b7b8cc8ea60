"""The command line itself: its version, and what a shell completes."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.cli.main import main


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
