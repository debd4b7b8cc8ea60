"""What is given is honoured: a cluster gets none of a laptop's settings, and an address is no folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipelines.lakehouse.session import _SHARED_TABLES, _launch, configuration
from pipelines.machine.assets import delta_jars
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from tests.support.standalone import host, submit
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


@pytest.mark.parametrize(
    ("key", "address"),
    [
        *((key, address) for key in ("checkpoints", "quality") for address in ("s3a://lake/x", "gs://b")),
        *((key, address) for key in ("lakehouse", "landing", "report") for address in ("dbfs:/x", "file:///x")),
    ],
)
def test_an_address_is_not_made_a_folder_of_that_name(key: str, address: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{key}: .*it is (neither )?a path of this machine"):
        load_settings(overrides=[f"{key}={address}"])
    assert list(tmp_path.iterdir()) == []


_DRIVER = """
import json, sys
from pathlib import Path
from pipelines.lakehouse.session import _LOCAL_CONF, get_spark
from pipelines.settings.sections import Settings
ours = {"spark.sql.shuffle.partitions": "7", "spark.sql.files.maxPartitionBytes": "7m", "spark.master": "local[7]"}
spark = get_spark(Settings(root=Path(sys.argv[1]), spark={"conf": ours}))
spark.range(3).write.format("delta").save(sys.argv[1] + "/table")
again = get_spark(Settings(root=Path(sys.argv[1])))
conf = dict(spark.sparkContext.getConf().getAll())
print(json.dumps({
    "master": spark.sparkContext.master, "same": again.sparkContext is spark.sparkContext,
    "of a laptop": sorted(conf.keys() & _LOCAL_CONF.keys()), **{key: conf[key] for key in list(ours)[:2]},
}))
"""
_WITHOUT_DELTA = """
import sys
from pathlib import Path
from pyspark.sql import SparkSession
from pipelines.lakehouse.session import get_spark
from pipelines.cli.main import main, _guarded
from pipelines.settings.sections import Settings
try:
    main(["run"])
except SystemExit as ended:
    SparkSession.builder.getOrCreate()  # as a notebook has it
    again = _guarded(lambda: get_spark(Settings(root=Path.cwd())))
    sys.exit(10 * ended.code + again)
"""


def _submit(program: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a driver by spark-submit, which writes what Python says on stderr to stdout as well."""
    (folder / "driver.py").write_text(program)
    words = ("--master", "local[1]", "--conf", "spark.ui.enabled=false", *options, str(folder / "driver.py"))
    return subprocess.run(
        submit(*words, str(folder)),
        env=host(PYTHONPATH=str(ROOT)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.long
def test_what_spark_submit_gives_is_stronger_than_the_settings_and_a_laptop_s_settings_stay_away(tmp_path: Path):
    jars = ",".join(map(str, delta_jars()))
    done = _submit(_DRIVER, tmp_path, "--jars", jars, "--conf", "spark.sql.files.maxPartitionBytes=9m")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "gives Spark at local[1]; the setting spark.master, local[7], is passed over" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "master": "local[1]",
        "same": True,
        "of a laptop": ["spark.sql.shuffle.partitions", "spark.ui.enabled"],  # the settings' own, and the command's
        "spark.sql.shuffle.partitions": "7",
        "spark.sql.files.maxPartitionBytes": "9m",
    }


@pytest.mark.long
def test_a_given_spark_without_delta_is_one_clear_line_and_exit_5(tmp_path: Path):
    (tmp_path / "landing").mkdir()
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "1.csv").write_text("id\n1\n")
    (tmp_path / "lakeloop.yml").write_text(
        "records: {orders: {format: csv, location: orders, key: [id], columns: {id: string}}}\n"
    )
    done = _submit(_WITHOUT_DELTA, tmp_path)
    assert done.returncode == 55, done.stdout[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("ConfigurationError: ")]
    assert lines == [
        "ConfigurationError: spark-submit started a Spark without Delta. Give it: --packages "
        "io.delta:delta-spark_4.2_2.13:4.4.0 (or --jars with the files that `lakeloop setup` fetches), and where it "
        "sets spark.sql.extensions, io.delta.sql.DeltaSparkSessionExtension among them.",
        "ConfigurationError: the Spark session of this process has no Delta. Stop it, and make it with "
        "spark.jars.packages=io.delta:delta-spark_4.2_2.13:4.4.0, "
        "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension, "
        "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog; or make none, and lakeloop "
        "starts its own.",
    ]
    assert "Traceback" not in done.stdout


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
