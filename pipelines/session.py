"""Settings in; a Spark session with Delta out: the running one, Databricks', or a quiet local one.

A local session starts from the cached jars (no resolution at each start), and everything that Java prints goes to the
log file, so that the screen belongs to lakeloop.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOCAL_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.shuffle.partitions": "2",
    # Small files, since a merge rewrites each file that it changes a row of.
    "spark.sql.files.maxRecordsPerFile": "20000",
    # The default of 50 makes every read of a commit log cost 50 tasks.
    "spark.databricks.delta.snapshotPartitions": "1",
    # On a laptop's data, compiling a query costs more than running it: without it an edit goes through all stages in
    # 16 s instead of 25. For large local volumes set both back in `spark.conf`.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.ui.enabled": "false",
    # Even without a page Spark keeps the plans of the last 1,000 queries for it: 100s of MB in a process that runs on.
    "spark.sql.ui.retainedExecutions": "20",
    "spark.ui.retainedTasks": "1000",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.driver.maxResultSize": "0",
}
# Short runs spend more on compiling hot code twice than the second compiler ever gives back: 74 against 39 CPU seconds
# for a cold run of five stages.
_JVM_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n%ex
"""


def get_spark(settings: Settings) -> SparkSession:
    """The active session where there is one (a notebook, a test, a job); else a new one for `settings.spark.master`.

    Raises:
        ConfigurationError: a local session is wanted, and Java or Delta's jars are missing.
    """
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return SparkSession.builder.getOrCreate()
    if settings.spark.master.startswith("sc://"):
        builder = SparkSession.builder.remote(settings.spark.master)
        for key, value in settings.spark.conf.items():
            builder = builder.config(key, value)
        return builder.getOrCreate()
    return _start(settings)


def _start(settings: Settings) -> SparkSession:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    from pipelines.assets import delta_jars, kafka_jars
    from pipelines.java import find_java

    os.environ["JAVA_HOME"] = str(find_java())
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # Otherwise Spark resolves this machine's name, which takes seconds where there is no network.
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    log = settings.log_path
    log.parent.mkdir(parents=True, exist_ok=True)
    log4j = log.with_name("log4j2.properties")
    log4j.write_text(_LOG4J, encoding="utf-8")

    conf = SparkConf(loadDefaults=False).setMaster(settings.spark.master).setAppName("lakeloop")
    reads_kafka = any(source.format == "kafka" for source in settings.records.values())
    jars = [*delta_jars(), *(kafka_jars() if reads_kafka else [])]
    conf.set("spark.jars", ",".join(map(str, jars)))
    conf.set("spark.driver.memory", settings.spark.driver_memory)
    conf.set("spark.sql.warehouse.dir", str(settings.path("spark-warehouse")))
    conf.set("spark.driver.extraJavaOptions", f'-Dlog4j2.configurationFile="{_file_url(log4j)}" {_JVM_OPTIONS}')
    for key, value in {**_LOCAL_CONF, **settings.spark.conf}.items():
        conf.set(key, value)
    with log.open("ab") as sink:
        gateway = launch_gateway(conf, popen_kwargs={"stdout": sink, "stderr": sink})  # type: ignore[no-untyped-call]
    context = SparkContext(conf=conf, gateway=gateway)
    return SparkSession(context)


def _file_url(path: Path) -> str:
    return path.absolute().as_uri()
