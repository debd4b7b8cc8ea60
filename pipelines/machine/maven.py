"""Fetches jars by their Maven coordinates, resolved by Apache Ivy, which ships with Spark.

If a company's mirror replaces the public repository, LAKELOOP_IVY_SETTINGS names its ivysettings.xml. Java is told the
machine's proxy and, if its own list of certificate authorities does not suffice, the machine's list.
"""

from __future__ import annotations

import importlib.util
import os
import ssl
import subprocess
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformations.errors import ConfigurationError, LakeloopError, MissingDependencyError

_TIMEOUT_SECONDS = 1800
_PASSWORD = "lakeloop"  # noqa: S105  (a list of public certificates; Java wants a word for it)
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True)
class Coordinate:
    """One jar of a Maven repository."""

    group: str
    artifact: str
    version: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def fetch_jars(coordinates: Iterable[Coordinate], *, into: Path) -> None:
    """Fetch the jar of each coordinate as `file_name` into `into`, an existing empty folder; dependencies are ignored.

    Raises:
        ConfigurationError: no Java is found, or LAKELOOP_IVY_SETTINGS names no file.
        MissingDependencyError: pyspark is not installed.
        LakeloopError: the repository could not be reached, or does not have one of the jars.
    """
    from pipelines.machine.java import find_java

    wanted = list(coordinates)
    (into / "ivy.xml").write_text(_module(wanted), encoding="utf-8")
    java = str(find_java() / "bin" / "java")
    # Relative names, since Ivy reads brackets in a path as a pattern.
    command = [f"-Divy.default.ivy.user.dir={into / 'user'}", *_proxy_options(), "-jar", str(_ivy_jar()), *_settings()]
    command += ["-cache", "ivy", "-ivy", "ivy.xml", "-types", "jar", "bundle", "-confs", "default"]
    command += ["-retrieve", "[artifact]-[revision].[ext]"]
    output = _run([java, *command], folder=into)
    if "PKIX" in output and (bundle := _certificate_bundle()):
        output = _run([java, *_trust_options(bundle, folder=into), *command], folder=into)
    lacking = [c.file_name for c in wanted if not (into / c.file_name).is_file()]
    if lacking:
        telling = [line.strip() for line in output.splitlines() if "error" in line.lower() or "not found" in line]
        raise LakeloopError(
            f"could not fetch {', '.join(lacking)} from the Maven repository: "
            f"{'; '.join(telling[:3]) or output[-500:]}. "
            "Is there a network? Behind a company's mirror set LAKELOOP_IVY_SETTINGS to its ivysettings.xml; then: "
            "lakeloop setup"
        )


def _module(coordinates: Iterable[Coordinate]) -> str:
    lines = [
        f'<dependency org="{c.group}" name="{c.artifact}" rev="{c.version}" transitive="false"/>' for c in coordinates
    ]
    return (
        '<ivy-module version="2.0"><info organisation="lakeloop" module="assets"/>\n'
        '<configurations><conf name="default"/></configurations>\n'
        f'<dependencies defaultconf="default->master">\n{chr(10).join(lines)}\n</dependencies></ivy-module>\n'
    )


def _ivy_jar() -> Path:
    spark = importlib.util.find_spec("pyspark")
    for folder in (spark.submodule_search_locations or []) if spark else []:
        if jars := sorted((Path(folder) / "jars").glob("ivy-*.jar")):
            return jars[-1]
    raise MissingDependencyError.for_extra("pyspark", "spark")


def _settings() -> list[str]:
    name = os.environ.get("LAKELOOP_IVY_SETTINGS")
    if not name:
        return []
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise ConfigurationError(f"LAKELOOP_IVY_SETTINGS names {path}, and there is no such file")
    return ["-settings", str(path)]


def _run(command: list[str], *, folder: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"error: no answer within {_TIMEOUT_SECONDS} s"
    return done.stdout


def _proxy_options() -> list[str]:
    """The machine's proxy as options of Java."""
    proxies = urllib.request.getproxies()
    options = []
    for scheme in ("http", "https"):
        address = urllib.parse.urlsplit(proxies.get(scheme, ""))
        if address.hostname:
            port = address.port or (443 if address.scheme == "https" else 80)
            options += [f"-D{scheme}.proxyHost={address.hostname}", f"-D{scheme}.proxyPort={port}"]
    if options and (direct := proxies.get("no")):
        hosts = [host.strip() for host in direct.split(",") if host.strip()]
        options.append(f"-Dhttp.nonProxyHosts={'|'.join('*' + h if h.startswith('.') else h for h in hosts)}")
    return options


def _certificate_bundle() -> Path | None:
    named = [os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")]
    places = [*named, ssl.get_default_verify_paths().cafile, *_BUNDLES]
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def _trust_options(bundle: Path, *, folder: Path) -> list[str]:
    """Options with which Java trusts the authorities of `bundle` (PEM); writes a trust store into `folder` for them."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    with warnings.catch_warnings():
        # Some long-lived authorities have serial numbers that a newer standard forbids.
        warnings.simplefilter("ignore")
        authorities = x509.load_pem_x509_certificates(bundle.read_bytes())
        entries = [pkcs12.PKCS12Certificate(c, f"authority-{n}".encode()) for n, c in enumerate(authorities)]
        store = pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(_PASSWORD.encode()))
    (folder / "trust.p12").write_bytes(store)
    trust = {"trustStore": "trust.p12", "trustStorePassword": _PASSWORD, "trustStoreType": "PKCS12"}
    return [f"-Djavax.net.ssl.{name}={value}" for name, value in trust.items()]
