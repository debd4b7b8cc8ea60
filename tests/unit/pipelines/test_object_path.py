"""Places of object storage in the settings: what is one, what is refused, and that no secret is shown. No server."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pipelines.documents.landing import files_below
from pipelines.settings import redaction
from pipelines.settings.load import load_settings
from pipelines.settings.redaction import redacted
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import ObjectPath, spark_name
from pipelines.storage.storage_errors import StorageError, explained
from pipelines.stores import open_store
from transformations.errors import ConfigurationError


@pytest.mark.parametrize(
    ("given", "place", "for_spark"),
    [
        ("s3://bucket/a b/ü", "s3://bucket/a b/ü", "s3a://bucket/a b/ü"),
        ("s3a://bucket/x/", "s3://bucket/x", "s3a://bucket/x"),
        ("gs://bucket", "gs://bucket", "gs://bucket"),
        ("abfss://c@account.dfs.core.windows.net/x",) * 3,
    ],
)
def test_an_address_of_object_storage_is_a_place(given: str, place: str, for_spark: str, tmp_path: Path):
    settings = Settings(root=tmp_path, lakehouse=given, landing=given, report=f"{given}/report.html")
    folder = settings.place(settings.lakehouse)
    assert isinstance(folder, ObjectPath)
    assert (str(folder), spark_name(folder)) == (place, for_spark)
    assert str(folder / "silver" / "documents") == f"{place}/silver/documents"
    assert str((folder / "a.md").with_name("b.md")) == f"{place}/b.md"
    assert (folder / "x" / "a.md").name == "a.md"
    assert place in settings.own_places


def test_a_path_is_a_path(tmp_path: Path):
    settings = Settings(root=tmp_path, lakehouse="a:b/c", landing="C:/x")
    assert settings.place(settings.lakehouse) == tmp_path / "a:b/c"
    assert settings.landing_path == tmp_path / "C:/x"


@pytest.mark.parametrize(
    ("given_text", "said"),
    [
        ("lakehouse: 'ftp://host/x'", "neither a path of this machine nor an address of object storage (s3://, gs://"),
        ("landing: 'https://bucket.example/x'", "lakehouse|landing: Value error, it is neither a path"),
        ("lakehouse: 's3:///x'", "it names no bucket"),
        ("report: 'http://host/report.html'", "report: Value error, it is neither a path"),
        ("checkpoints: 's3://bucket/x'", "in object storage it is not supported yet"),
        ("quality: 's3://bucket/x'", "in object storage it is not supported yet"),
        ("lakehouse: 's3://bucket/x?secret=hunter2'", "it holds a password: name that as storage_options"),
        ("storage_options: {aws_secret_access_key: hunter2}", "storage_options.aws_secret_access_key must name an env"),
        ("storage_options: {azure_storage_sas_token: hunter2}", "storage_options.azure_storage_sas_token must name"),
        (
            "records: {a: {format: csv, location: 's3://bucket/x', key: [id], order_by: [id], columns: {id: int}}}",
            "records in object storage are not supported yet",
        ),
    ],
)
def test_what_is_not_supported_is_refused_with_one_line(given_text: str, said: str, tmp_path: Path):
    file = tmp_path / "lakeloop.yml"
    file.write_text(given_text)
    with pytest.raises(ConfigurationError, match="|".join(map(re.escape, said.split("|")))) as refused:
        load_settings(file)
    assert refused.value.exit_code == 5
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_index_of_lance_lies_in_no_other_place(tmp_path: Path):
    pytest.importorskip("lance")
    with pytest.raises(ConfigurationError, match=r"index\.uri of Lance is 'ftp://host/x': it is neither a path"):
        open_store(Settings(root=tmp_path, index={"uri": "ftp://host/x"}), dimension=4)
    assert Settings(root=tmp_path, index={"uri": "s3a://bucket/x"}).index_uri == "s3://bucket/x"


def test_a_secret_of_the_options_or_the_environment_is_shown_nowhere(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    monkeypatch.setenv("THE_KEY", "correct horse")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "battery staple")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "a horse in a field")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    file = tmp_path / "lakeloop.yml"
    file.write_text("lakehouse: s3://bucket/x\nstorage_options: {aws_secret_access_key: '${THE_KEY}'}\n")
    settings = load_settings(file)
    place = settings.place(settings.lakehouse)
    assert isinstance(place, ObjectPath)
    assert place.options == {"aws_secret_access_key": "correct horse"}
    assert "correct horse" not in f"{place} {place!r} {settings!r} {settings.model_dump()}"
    shown = redacted("correct horse, battery staple, a horse in a field, eu-central-1")
    assert shown == "***, ***, ***, eu-central-1"


def test_what_is_no_secret_is_shown_and_json_stays_json(monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "null")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/token")
    redaction.note_environment()
    assert json.loads(redacted('{"is_due": true, "at": null}')) == {"is_due": True, "at": None}
    assert redacted("there is no file /var/token") == "there is no file /var/token"


@pytest.mark.parametrize("said", [{"retry_timeout": "1m"}, {"retry_timeout": "2.5s"}, {"max_retries": "many"}])
def test_how_long_to_try_again_is_said_in_numbers(said: dict[str, str]):
    place = ObjectPath.of("s3://bucket/x", said)
    with pytest.raises(ConfigurationError, match="retry_timeout in seconds, such as 60s"):
        place.client_options  # noqa: B018


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ("GET http://x - 404: <Code>NoSuchBucket</Code>", ConfigurationError, "there is no bucket s3://bucket"),
        ("GET http://x - 403: <Code>AccessDenied</Code>", ConfigurationError, "may not be used (AccessDenied)"),
        (
            "403 <Code>SignatureDoesNotMatch</Code><StringToSign>hunter2</StringToSign>",
            ConfigurationError,
            "may not be used (SignatureDoesNotMatch)",
        ),
        (
            "Kernel error\n  \x1b[31m↳\x1b[0m error sending request\n   ↳ tcp connect error\nDebug source: hunter2",
            StorageError,
            "object storage failed at s3://bucket/x: Kernel error : error sending request : tcp connect error.",
        ),
        (
            "LanceError(IO): Generic S3 error: Error performing GET http://me:hunter2@host/a?sig=hunter2 in 1.5ms, "
            "after 1 retries, max_retries: 1, retry_timeout: 60s  - HTTP error: no answer, /home/x/lance/a.rs:15:4",
            StorageError,
            "failed at s3://bucket/x: Error performing GET http://host/a - HTTP error: no answer. What was committed",
        ),
        ("503 <Code>SlowDown</Code>", StorageError, "failed at s3://bucket/x: SlowDown, 503."),
    ],
)
def test_what_a_server_says_is_told_in_one_line_without_what_was_signed(error: str, kind: type, said: str):
    told = explained("s3://bucket/x", OSError(error))
    assert type(told) is kind
    assert said in str(told)
    assert "hunter2" not in str(told)
    assert "\n" not in str(told)


def test_without_its_library_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'lakeloop[object-storage]'")):
        list(files_below(ObjectPath.of("s3://bucket/x"), Settings(root=tmp_path).ingest))


def test_an_endpoint_without_tls_is_taken_if_it_was_written(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    place = ObjectPath.of("s3://bucket/x", {"aws_endpoint": "http://127.0.0.1:1"})
    assert place.client_options["allow_http"] == "true"
    assert "allow_http" not in ObjectPath.of("s3://bucket/x").client_options
    assert not ObjectPath.of("s3://bucket/x", {"aws_metadata_endpoint": "http://127.0.0.1:1"}).endpoint
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert ObjectPath.of("s3://bucket/x").endpoint == "http://127.0.0.1:1"
    assert not ObjectPath.of("gs://bucket/x").endpoint


def test_two_servers_that_are_named_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1/")
    place = ObjectPath.of("s3://bucket/x", {"aws_endpoint": "http://127.0.0.1:2"})
    with pytest.raises(ConfigurationError, match="storage_options and AWS_ENDPOINT_URL_S3 name different servers"):
        place.is_file()
    assert ObjectPath.of("s3://bucket/x", {"aws_endpoint": "http://127.0.0.1:1"}).endpoint == "http://127.0.0.1:1"


def test_a_key_that_the_client_cannot_read_is_named():
    error = explained(
        "s3://bucket/x",
        ValueError('Encountered object with invalid path: "x//a" contained empty path segment'),
    )
    assert isinstance(error, ConfigurationError)
    assert "x//a" in str(error)
