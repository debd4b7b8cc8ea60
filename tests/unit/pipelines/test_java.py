"""Which Java is taken, told by real start scripts that answer as a Java does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipelines.machine import java
from pipelines.machine.java import find_java, java_version, parse_version
from transformations.errors import ConfigurationError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Java but what a test puts there."""
    monkeypatch.setenv("LAKELOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(java, "_usual_places", lambda: iter(()))


def put_java(home: Path, version: str, *, modules: bool = True) -> Path:
    """A program that reports as Java `version` does, and counts its starts in `home`/starts."""
    lacks = "" if modules else 'case "$1" in --add-modules=*) echo "Module not found" >&2; exit 1;; esac'
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\necho x >> "{home}/starts"\n{lacks}\n'
        f'echo "    java.home = {home}" >&2\necho \'openjdk version "{version}" 2025-04-15\' >&2\necho "$@"\n'
    )
    program.chmod(0o755)
    return home


def starts(home: Path) -> int:
    return len((home / "starts").read_text().split())


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, other = put_java(tmp_path / "named java", "21.0.8"), put_java(tmp_path / "other", "17.0.15")
    monkeypatch.setenv("PATH", str(other / "bin"))
    assert find_java() == other
    monkeypatch.setenv("JAVA_HOME", str(named))
    assert find_java() == named
    assert java_version(named) == 21


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = put_java(tmp_path / "old", "1.8.0_402"), put_java(tmp_path / "new", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(old))
    monkeypatch.setenv("PATH", str(new / "bin"))
    assert find_java() == new


def test_the_error_lists_what_was_seen_and_how_to_get_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(put_java(tmp_path / "old", "11.0.2")))
    (tmp_path / "empty" / "java").write_text("no program")
    (tmp_path / "empty" / "java").chmod(0o755)
    with pytest.raises(ConfigurationError) as caught:
        find_java()
    text = str(caught.value)
    assert "JAVA_HOME" in text
    assert "is Java 11" in text
    assert "does not start" in text
    assert "apt-get install openjdk-17-jre-headless" in text
    assert "brew install openjdk@17" in text


def test_nothing_seen_at_all_is_an_error_of_its_own_words() -> None:
    with pytest.raises(ConfigurationError, match="none was seen at all"):
        find_java()


def test_java_is_started_once_and_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = put_java(tmp_path / "jdk", "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert [find_java(), find_java()] == [home, home]
    assert starts(home) == 1
    program = home / "bin" / "java"
    program.write_text(program.read_text().replace("17.0.15", "11.0.15"))
    with pytest.raises(ConfigurationError, match="is Java 11"):
        find_java()


@pytest.mark.parametrize("left", ["", "{", "[]", '{"x": {"home": 1}}', "\x00"])
def test_a_damaged_file_of_answers_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    home = put_java(tmp_path / "jdk", "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(home))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "java.json").write_text(left)
    assert find_java() == home


def test_a_version_managers_shim_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = put_java(tmp_path / "real", "17.0.15")
    shim = tmp_path / "shims" / "java"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{home}/bin/java" "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent))
    assert [find_java(), find_java()] == [home, home]
    assert starts(home) == 2


def test_a_java_without_sparks_optional_module_is_started_without_asking_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = put_java(tmp_path / "trimmed java", "21.0.8", modules=False)
    monkeypatch.setenv("JAVA_HOME", str(trimmed))
    home = find_java()
    assert home != trimmed
    assert find_java() == home
    command = [home / "bin" / "java", "-ea", "--add-modules=jdk.incubator.vector", "a b", "--add-modules=x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "-ea a b --add-modules=x\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21" 2023-09-19 LTS', 21),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ("No Java runtime present, requesting install.", None),
    ],
)
def test_the_version_is_read_as_java_writes_it(text: str, version: int | None) -> None:
    assert parse_version(text) == version
