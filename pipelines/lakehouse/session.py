"""The Spark session with Delta: the one that the surroundings give, or a new one for `settings.spark.master`.

A new session starts from the cached jars (without resolving them at each start), and everything that Java prints goes
to the log file instead of the screen.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.settings.sections import Settings, SparkSettings
from pipelines.storage.object_path import ObjectPath
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)
# For every session: with these, Spark and delta-rs see the same values in the same tables and change feeds.
_SHARED_TABLES = {
    # Other readers take the default, INT96, as nanoseconds: 9999-12-31 would be a day of 1816 for them.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.writeLegacyFormat": "false",
    # A change feed passes through Java objects; those of the old API have no 5th to 14th of October 1582.
    "spark.sql.datetime.java8API.enabled": "true",
    # In a statement Spark would replace ${NAME} by a setting, also where a path or a text holds it.
    "spark.sql.variable.substitute": "false",
    # In another zone the same text would be another instant, and a day would have other hours.
    "spark.sql.session.timeZone": "UTC",
}
# For every session that is made here, unless `spark.conf` says otherwise.
_CONF = {
    **_SHARED_TABLES,
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
# For local sessions only: what suits the data of a laptop would make a cluster slow.
_LOCAL_CONF = {
    "spark.sql.shuffle.partitions": "2",
    # Small files, because a merge rewrites every file in which it changes a row.
    "spark.sql.files.maxRecordsPerFile": "20000",
    # The default of 50 makes every read of a commit log cost 50 tasks.
    "spark.databricks.delta.snapshotPartitions": "1",
    # A VACUUM lists files in so many tasks: of four files, in 72 s by the default of 10,000 and in 3 s by two.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
    # On a laptop's data, compiling a query costs more than running it: without compiling, an edit goes through all
    # stages in 16 s instead of 25. For large local data set both back in `spark.conf`.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.ui.enabled": "false",
    # Even without its web page Spark keeps the plans of the last 1,000 queries: 100s of MB in a long-running process.
    "spark.sql.ui.retainedExecutions": "20",
    "spark.ui.retainedTasks": "1000",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.maxResultSize": "0",
    # Spark's default batches are limited in rows, and a row may be a whole document. So what goes to a Python worker
    # at once is limited in bytes, and a scan decodes fewer rows at once.
    "spark.sql.execution.arrow.maxBytesPerBatch": "16m",
    "spark.sql.parquet.columnarReaderBatchSize": "1024",
    # Persisted frames are not compressed: for that, Spark would copy every text once more.
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
}
# Only if all of Spark is on this machine: executors on another machine would look for the driver on that machine.
_ON_THIS_MACHINE = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
# In a short run Java's second compiler costs more than it gains: 74 CPU seconds with it, 39 without, for a cold run of
# five stages.
_LOCAL_JVM_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# An option of object storage: its name for Spark's client of S3.
_S3_OPTIONS = {
    "region": "endpoint.region",
    "access_key_id": "access.key",
    "secret_access_key": "secret.key",
    "session_token": "session.token",
}
_IN_PROPERTIES = {sign: f"\\{sign}" for sign in "\\:=#! "} | {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n%ex
"""


def get_spark(settings: Settings) -> SparkSession:
    """The session that the surroundings of this process give, else a new one for `settings.spark.master`.

    The first of these counts: a session or context that runs in this process (of a notebook, a test, a job); the
    session of Databricks; the master that spark-submit was started with; SPARK_REMOTE. With spark-submit, `spark.conf`
    adds settings that were not given there; with SPARK_REMOTE it is set as it is.

    Raises:
        ConfigurationError: a new session is needed, and Spark (there is only its Connect client), Java or Delta's jars
            are missing; or the given Spark has no Delta.
        SparkLostError: the Spark Connect server does not answer.
    """
    from pyspark.sql import SparkSession
    from pyspark.util import is_remote_only

    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    if not is_remote_only() and _has_context():
        return _of_this_process(SparkSession.getActiveSession() or SparkSession.builder.getOrCreate())
    active = SparkSession.getActiveSession()
    if active is not None:  # of Spark Connect
        return active
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return _submitted(settings)
    wanted = settings.spark.conf.get("spark.master", settings.spark.master)
    remote = os.environ.get("SPARK_REMOTE") or (wanted if wanted.startswith("sc://") else "")
    if not remote:
        return start_session(settings, wanted)
    _warn_of_other_master("SPARK_REMOTE", remote, instead_of=wanted)
    from pipelines.lakehouse.remote import connected

    conf = {**_SHARED_TABLES, **settings.spark.conf}
    conf.pop("spark.master", None)
    return connected(remote, conf)


def _has_context() -> bool:
    """Whether Spark itself runs in this process. The Connect client alone cannot tell: it lacks the class."""
    from pyspark import SparkContext

    return SparkContext._active_spark_context is not None


def _submitted(settings: Settings) -> SparkSession:
    """The session of spark-submit: its master and its settings, and those of our settings that it does not set.

    Raises:
        ConfigurationError: that Spark has no Delta.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    SparkContext._ensure_initialized()
    given = SparkConf()
    master = given.get("spark.master") or ""
    _warn_of_other_master(
        "spark-submit", master, instead_of=settings.spark.conf.get("spark.master", settings.spark.master)
    )
    builder = SparkSession.builder
    for key, value in {**_CONF, **settings.spark.conf}.items():
        if not given.contains(key) and key != "spark.master":
            builder = builder.config(key, value)
    if not _has_delta(SparkContext._jvm, given.get("spark.sql.extensions") or _CONF["spark.sql.extensions"]):
        raise ConfigurationError(
            "spark-submit started a Spark without Delta. Give it: --packages "
            f"{_delta_package()} (or --jars with the files that `lakeloop setup` fetches), and where it sets "
            f"spark.sql.extensions, {_CONF['spark.sql.extensions']} among them."
        )
    return builder.getOrCreate()


def _of_this_process(session: SparkSession) -> SparkSession:
    """The session that runs already.

    Raises:
        ConfigurationError: it has no Delta.
    """
    from pyspark import SparkContext

    if not _has_delta(SparkContext._jvm, session.conf.get("spark.sql.extensions", None) or ""):
        wanted = {key: _CONF[key] for key in ("spark.sql.extensions", "spark.sql.catalog.spark_catalog")}
        said = ", ".join(f"{key}={value}" for key, value in {"spark.jars.packages": _delta_package(), **wanted}.items())
        raise ConfigurationError(
            f"the Spark session of this process has no Delta. Stop it, and make it with {said}; or make none, and "
            "lakeloop starts its own."
        )
    return session


def _has_delta(jvm: Any, extensions: str) -> bool:
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    try:
        jvm.java.lang.Class.forName(_CONF["spark.sql.extensions"], False, loader)
    except Exception:  # Java's ClassNotFoundException, wrapped in an error of the gateway
        return False
    return _CONF["spark.sql.extensions"] in extensions


def _delta_package() -> str:
    from pipelines.machine.assets import DELTA_JARS

    jar = next(iter(DELTA_JARS))
    return f"{jar.group}:{jar.artifact}:{jar.version}"


def _warn_of_other_master(what: str, given: str, *, instead_of: str) -> None:
    if instead_of not in (SparkSettings.model_fields["master"].default, given):
        log.warning("%s gives Spark at %s; the setting spark.master, %s, is passed over", what, given, instead_of)


def _is_local(master: str) -> bool:
    return master.partition("[")[0] == "local"


def _is_on_this_machine(master: str) -> bool:
    return _is_local(master) or master.startswith(("local-cluster[", "spark://127.0.0.1:", "spark://localhost:"))


def write_as_delta_rs_reads(spark: SparkSession, *, needed: bool) -> SparkSession:
    """Set `_SHARED_TABLES` in a session. They are `needed` if delta-rs reads and writes the same tables.

    Raises:
        ConfigurationError: they are needed, and this session does not allow one of them.
    """
    given: dict[str, Any] = {}
    with suppress(Exception):  # serverless sessions show few settings, and raise errors of their own
        given = dict(spark.conf.getAll)
    for key, value in _SHARED_TABLES.items():
        try:
            if given.get(key) != value:
                spark.conf.set(key, value)
        except Exception as error:  # nor do they let many be set
            if needed:
                raise ConfigurationError(
                    f"the Spark session does not let {key} be {value}, and without it Spark and delta-rs would see "
                    f"other values in the same folder: {str(error).strip().splitlines()[0][:200]}. Set it where the "
                    "session is made, or keep the tables in a catalog."
                ) from None
    return spark


def start_session(settings: Settings, master: str, *, added: Mapping[str, str] | None = None) -> SparkSession:
    """A new session for `master`, with the `configuration` of the settings and what is `added` to it.

    Raises:
        ConfigurationError: Spark, of which there is only the Connect client, Java or Delta's jars are missing.
    """
    from pyspark.util import is_remote_only

    if is_remote_only():
        raise ConfigurationError(
            f"a Spark for {master} is needed, and this Python has Spark's Connect client alone. Name a server "
            "(SPARK_REMOTE, or spark.master: sc://host:15002), or install pyspark in its place."
        )
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    from pipelines.machine.java import find_java

    os.environ["JAVA_HOME"] = str(find_java())
    if _is_on_this_machine(master):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        # Otherwise Spark resolves this machine's name, which takes seconds if there is no network.
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    output = settings.log_path
    output.parent.mkdir(parents=True, exist_ok=True)
    log4j = output.with_name("log4j2.properties")
    log4j.write_text(LOG4J, encoding="utf-8")
    chosen = {**configuration(settings, master, log4j=log4j), **(added or {})}
    conf = SparkConf(loadDefaults=False)
    for key, value in chosen.items():
        conf.set(key, value)
    with _own_handler_kept():
        context = SparkContext(conf=conf, gateway=_launch(chosen, output=output))
    return SparkSession(context)


def _launch(conf: Mapping[str, str], *, output: Path) -> Any:
    """Start Java, and return the gateway to it.

    The settings, which may contain secrets, are passed in a file that only this user may read and that is deleted
    afterwards: every user of a machine can see the arguments of a command.
    """
    from pyspark.java_gateway import launch_gateway

    handle, name = tempfile.mkstemp(dir=output.parent, prefix=".spark-", suffix=".conf")
    before = os.environ.get("PYSPARK_SUBMIT_ARGS")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{_property(key)}={_property(value)}\n" for key, value in conf.items())
        os.environ["PYSPARK_SUBMIT_ARGS"] = f"--properties-file {shlex.quote(name)} {before or 'pyspark-shell'}"
        with output.open("ab") as sink, _interrupted_later():
            return launch_gateway(popen_kwargs={"stdout": sink, "stderr": sink})  # type: ignore[no-untyped-call]
    finally:
        os.unlink(name)
        if before is None:
            os.environ.pop("PYSPARK_SUBMIT_ARGS", None)
        else:
            os.environ["PYSPARK_SUBMIT_ARGS"] = before


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block: if Python ended while Java starts, Java would run on for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if signals:
            raise KeyboardInterrupt


@contextmanager
def _own_handler_kept() -> Iterator[None]:
    """Restore a caller's handler of SIGINT, which PySpark replaces by its own: it ends a watch."""
    before = signal.getsignal(signal.SIGINT)
    yield
    is_own = before not in (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN, None)
    if is_own and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)


def _property(text: str) -> str:
    """A key or a value, escaped for a properties file of Java."""
    return "".join(_IN_PROPERTIES.get(sign, sign) for sign in text)


def configuration(settings: Settings, master: str, *, log4j: Path) -> dict[str, str]:
    """The configuration of a new session for `master`; `spark.conf` of the settings overrides all but the master."""
    from pipelines.machine.assets import delta_jars, kafka_jars, s3_jars

    reads_kafka = any(source.format == "kafka" for source in settings.records.values())
    tables = settings.place(settings.lakehouse)
    is_in_s3 = isinstance(tables, ObjectPath) and tables.scheme == "s3"
    jars = [*delta_jars(), *(kafka_jars() if reads_kafka else []), *(s3_jars() if is_in_s3 else [])]
    options = f'-Dlog4j2.configurationFile="{_file_url(log4j)}"'
    return {
        "spark.app.name": "lakeloop",
        "spark.jars": ",".join(map(str, jars)),
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.sql.warehouse.dir": str(settings.path("spark-warehouse")),
        "spark.driver.extraJavaOptions": f"{options} {_LOCAL_JVM_OPTIONS}" if _is_local(master) else options,
        **_CONF,
        **(_LOCAL_CONF if _is_local(master) else {}),
        **(_ON_THIS_MACHINE if _is_on_this_machine(master) else {}),
        **(_of_s3(tables) if isinstance(tables, ObjectPath) and is_in_s3 else {}),
        **settings.spark.conf,
        "spark.master": master,
    }


def _of_s3(tables: ObjectPath) -> dict[str, str]:
    """How Spark's client of S3 goes where those of delta-rs and Lance go. What the environment says, it finds there."""
    said = {key.lower().removeprefix("aws_"): value for key, value in tables.options.items()}
    found = {name: said[option] for option, name in _S3_OPTIONS.items() if option in said}
    if endpoint := tables.endpoint:
        # Servers of one's own have no name for each bucket.
        found |= {"endpoint": endpoint, "path.style.access": "true"}
    return {f"spark.hadoop.fs.s3a.{name}": value for name, value in found.items()}


def _file_url(path: Path) -> str:
    return path.absolute().as_uri()


def local_cores(settings: Settings) -> int:
    """How many cores of this machine a new session would use; 0 if its workers are elsewhere."""
    if any(name in os.environ for name in ("DATABRICKS_RUNTIME_VERSION", "PYSPARK_GATEWAY_PORT", "SPARK_REMOTE")):
        return 0
    master = settings.spark.conf.get("spark.master", settings.spark.master)
    found = re.fullmatch(r"local(?:\[(\*|\d+)(?:,.*)?\])?", master)
    if found is None:
        return 0
    if found[1] != "*":
        return int(found[1] or 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_executors(spark: SparkSession) -> bool:
    """Whether Spark's executors are known to be in other processes: serverless compute does not say, and lets them
    reach no server."""
    try:
        master = spark.conf.get("spark.master", "local")
    except Exception:  # the setting may not be read there; errors of Connect have classes of their own
        return False
    return not str(master).startswith("local")


def parallelism(spark: SparkSession) -> int:
    """The number of partitions after a shuffle: 2 in a local session, else the cluster's ("auto" counts as 200)."""
    setting = spark.conf.get("spark.sql.shuffle.partitions") or ""
    return int(setting) if setting.isdigit() else 200
