"""A Spark Connect server that does not answer is one clear error, and only the first call waits for it."""

from __future__ import annotations

import pytest
from pyspark.sql.connect.client import SparkConnectClient
from pyspark.sql.connect.client.retries import Retrying

from pipelines.lakehouse import remote
from pipelines.lakehouse.remote import Patience
from transformations.errors import SparkLostError


def test_a_server_that_is_not_there_is_given_up_once_and_for_all_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "RETRIES", 2)
    client = SparkConnectClient("sc://127.0.0.1:1/;token=s3cret")
    client.set_retry_policies([Patience("sc://127.0.0.1:1/;token=s3cret")])
    try:
        with pytest.raises(SparkLostError, match=r"at sc://127\.0\.0\.1:1 does not answer\. .* run again") as first:
            client.get_configs("spark.sql.session.timeZone")
        with pytest.raises(SparkLostError) as second:
            client.get_configs("spark.sql.session.timeZone")
        assert second.value is first.value
        assert "s3cret" not in str(first.value)
    finally:
        client.set_retry_policies([])  # else closing waits for the server
        client.close()


def test_a_server_that_was_started_anew_is_not_asked_again():
    def call() -> None:
        for attempt in Retrying([Patience("sc://127.0.0.1:15002")]):
            with attempt:
                raise RuntimeError("[INVALID_HANDLE.SESSION_CHANGED] The existing server has restarted.")

    with pytest.raises(SparkLostError, match="was started anew, and lost this session"):
        call()
