"""What is given is honoured: a cluster gets none of a laptop's settings, and an address is no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.lakehouse.session import _SHARED_TABLES, _launch, configuration
from pipelines.machine.assets import delta_jars
from pipelines.machine.java import find_java
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[3]
LAPTOP = {
    "spark.driver.host", "spark.driver.bindAddress", "spark.sql.shuffle.partitions", "spark.sql.codegen.wholeStage",
    "spark.sql.codegen.factoryMode", "spark.sql.files.maxRecordsPerFile", "spark.driver.maxResultSize",
}  # fmt: skip


def _conf(master: str, tmp_path: Path, **conf: str) -> dict[str, str]:
    settings = Settings(root=tmp_path, spark={"master": master, "conf": conf})
    return configuration(settings, master, log4j=tmp_path / "log4j2.properties")


@pytest.mark.parametrize("master", ["spark://head.example.test:7077", "yarn", "k8s://https://10.0.0.1:6443"])
def test_a_cluster_gets_none_of_the_settings_that_suit_a_laptop(master: str, tmp_path: Path):
    conf = _conf(master, tmp_path)
    assert conf["spark.master"] == master
    assert not LAPTOP & conf.keys()
    assert "TieredStopAtLevel" not in conf["spark.driver.extraJavaOptions"]
    assert conf["spark.sql.session.timeZone"] == "UTC"
    assert conf.items() >= _SHARED_TABLES.items(), "said once, of every session"
    assert "DeltaSparkSessionExtension" in conf["spark.sql.extensions"]


def test_a_local_session_and_a_cluster_of_this_machine_keep_to_it(tmp_path: Path):
    assert _conf("local[2]", tmp_path).keys() >= LAPTOP
    here = _conf("spark://127.0.0.1:7077", tmp_path)
    assert here["spark.driver.host"] == "127.0.0.1"
    assert "spark.sql.shuffle.partitions" not in here
    own = _conf("local[4]", tmp_path, **{"spark.sql.shuffle.partitions": "8", "spark.driver.host": "10.1.2.3"})
    assert (own["spark.sql.shuffle.partitions"], own["spark.driver.host"]) == ("8", "10.1.2.3")


@pytest.mark.parametrize("key", ["lakehouse", "landing", "checkpoints", "report", "quality"])
@pytest.mark.parametrize(
    "address", ["s3a://lake/x", "abfss://c@a.dfs.example.test/x", "dbfs:/x", "file:///x", "gs://b"]
)
def test_an_address_is_not_made_a_folder_of_that_name(key: str, address: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{key}: .*it is a path of this machine, not an address"):
        load_settings(overrides=[f"{key}={address}"])
    assert list(tmp_path.iterdir()) == []


_DRIVER = """
import json, sys
from pathlib import Path
from pipelines.lakehouse.session import get_spark
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError
try:
    spark = get_spark(Settings(root=Path(sys.argv[1]), spark={"conf": {"spark.sql.shuffle.partitions": "7"}}))
except ConfigurationError as error:
    print(json.dumps({"error": str(error)}))
else:
    spark.range(3).write.format("delta").save(sys.argv[1] + "/table")
    conf = {key: spark.conf.get(key, None) for key in ("spark.sql.shuffle.partitions", "spark.sql.codegen.wholeStage")}
    again = get_spark(Settings(root=Path(sys.argv[1])))
    print(json.dumps({"master": spark.sparkContext.master, "same": again.sparkContext is spark.sparkContext, **conf}))
"""


@pytest.mark.long
def test_the_master_of_spark_submit_is_used_and_one_without_delta_is_refused(tmp_path: Path):
    import pyspark

    (tmp_path / "driver.py").write_text(_DRIVER)
    environment = {
        **os.environ, "JAVA_HOME": str(find_java()), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    found = []
    for jars in (["--jars", ",".join(map(str, delta_jars()))], []):
        command = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", "local[1]", *jars]
        command += ["--conf", "spark.ui.enabled=false", str(tmp_path / "driver.py"), str(tmp_path)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    with_delta, without = found
    assert with_delta.pop("master") == "local[1]"
    assert with_delta.pop("spark.sql.codegen.wholeStage") != "false"
    assert with_delta == {"same": True, "spark.sql.shuffle.partitions": "7"}
    assert without["error"].startswith(
        "spark-submit started a Spark without Delta. Give it: --packages io.delta:delta-"
    )


_RECORDER = """#!/bin/sh
echo "$@" > "$RECORD/words"
cp "$2" "$RECORD/file"
ls -l "$2" > "$RECORD/mode"
exit 1
"""


def test_no_setting_stands_among_the_words_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bin").mkdir()
    recorder = tmp_path / "bin" / "spark-submit"
    recorder.write_text(_RECORDER)
    recorder.chmod(0o755)
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    monkeypatch.setenv("RECORD", str(tmp_path))
    monkeypatch.delenv("PYSPARK_SUBMIT_ARGS", raising=False)
    logs = tmp_path / "my logs"
    logs.mkdir()
    with pytest.raises(Exception, match="JAVA_GATEWAY"):
        _launch({"spark.my.key": "a s3cret = \\ value\n#"}, output=logs / "lakeloop.log")
    assert "s3cret" not in (tmp_path / "words").read_text()
    assert (tmp_path / "mode").read_text().startswith("-rw------- ")
    assert (tmp_path / "file").read_text() == "spark.my.key=a\\ s3cret\\ \\=\\ \\\\\\ value\\n\\#\n"
    assert [file.name for file in logs.iterdir()] == ["lakeloop.log"]
    assert "PYSPARK_SUBMIT_ARGS" not in os.environ
