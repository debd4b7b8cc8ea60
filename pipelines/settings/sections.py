"""The sections of the settings: each setting with its type, default and description, validated and frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from pipelines.settings.records import RecordSettings, RecordSources, check_source_names
from pipelines.settings.redaction import note_environment, without_password
from pipelines.storage.object_path import AnyPath, ObjectPath, address_problem, is_address, is_object_storage
from transformations.documents import SUFFIXES
from transformations.text.personal_data import KINDS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _checked(address: str, *, belongs_to: str) -> str:
    """The address. Raises ValueError if it holds a password, which belongs into the setting `belongs_to`."""
    if without_password(address) != address:
        raise ValueError(f"it holds a password: name that as {belongs_to}, ${{NAME}} of a variable")
    return address


class IngestSettings(_Section):
    """Which files of the landing folder are documents, and what is refused."""

    source: str = Field("files", description="name of the source; part of every document_id")
    include: tuple[str, ...] = Field(
        tuple(f"*{suffix}" for suffix in (*SUFFIXES, ".txt") if suffix not in (".json", ".xml")),
        description="file name patterns; other files are passed over. *.json and *.xml are read where they are added",
    )
    max_file_mb: int = Field(50, ge=1, description="a larger file is set aside, its content is not read")
    max_delete_ratio: float = Field(
        0.3, ge=0, le=1, description="a run that would delete a larger share of the documents is refused; 1 allows all"
    )


class ParseSettings(_Section):
    """What the parsing of one document may take; a document that takes more is set aside."""

    timeout_seconds: float = Field(60, gt=0, description="wall-clock time")
    memory_mb: int = Field(1024, ge=256, description="memory of a process that parses; each worker has one of them")
    max_text_mb: int = Field(16, ge=1, le=256, description="a document that gives more text is set aside")


PersonalDataPolicy = Literal["off", "mark", "mask", "quarantine"]


class RefineSettings(_Section):
    """Which documents are fit to be served, and in what form."""

    languages: tuple[str, ...] = Field(
        (), description="ISO 639-1 codes of what may be served, such as en; none: all. und: could not be told"
    )
    other_languages: Literal["quarantine", "warn"] = Field("quarantine", description="what happens to the others")
    pii: PersonalDataPolicy = Field(
        "off", description="personal data: not looked for, marked in pii_spans, masked, or the document refused"
    )
    pii_kinds: tuple[str, ...] = Field(KINDS, description="what is personal data, by Presidio's names")
    pii_model: str | None = Field(None, description="an installed spaCy pipeline, to find names of persons and places")
    near_duplicates: Literal["off", "mark", "serve_one"] = Field(
        "off", description="not looked for; clusters told in silver.documents; or chunks of the newest of each"
    )
    near_duplicate_threshold: float = Field(
        0.8, gt=0, le=1, description="share of three-word sequences that two texts have in common"
    )

    @field_validator("pii", "near_duplicates", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value


class ChunkSettings(_Section):
    """How documents are cut."""

    max_tokens: int = Field(256, ge=32, le=512, description="tokens of the embedding model, heading path included")
    max_characters: int | None = Field(
        None, ge=512, description="characters of a chunk, heading path included; none: 8 for each of max_tokens"
    )


class EmbeddingSettings(_Section):
    """The embedding model, and how often its results are committed."""

    model: str = Field("all-minilm-l6-v2", description="384 dimensions, full precision; or your package.module:Class")
    max_texts: int | None = Field(
        None, ge=0, description="a run that would embed more texts is refused; none: no limit"
    )
    batch_size: int = Field(8, ge=1, description="texts in one call of the model; more wait for the longest of them")
    commit_seconds: float = Field(20, ge=0, description="between two commits of the cache: what a kill can cost")


class IndexSettings(_Section):
    """The vector index that serves gold.chunk_index."""

    store: str = Field(
        "lance",
        description="lance, chroma, milvus, pgvector, faiss, annoy, scann, databricks or databricks_delta_sync",
    )
    name: str = Field("chunks", pattern=r"^[A-Za-z0-9_]{1,40}$", description="what readers call the index")
    uri: str = Field("index", description="folder or object-storage prefix of the index, or its server's address")
    secret: SecretStr | None = Field(None, description="the server's password or token, as ${NAME} of a variable")
    options: dict[str, str] = Field(
        default_factory=dict, description="what only this store takes; docs/vector-index.md lists it"
    )
    max_delete_ratio: float = Field(
        0.3, ge=0, le=1, description="a sync that would delete a larger share of the index is refused; 1 allows all"
    )
    patience_seconds: float = Field(60, ge=0, description="so long a store may be down or busy before a sync gives up")
    lease_seconds: float = Field(300, gt=0, description="a writer that is silent for so long may be replaced")

    @field_validator("uri")
    @classmethod
    def _without_password(cls, uri: str) -> str:
        """Refuse a password in the address: tables keep the address, and must not contain a secret."""
        return _checked(uri, belongs_to="index.secret")

    @field_validator("options", mode="before")
    @classmethod
    def _as_text(cls, options: Any) -> Any:
        """Make texts of the values: YAML reads `trees: 10` as a number, and an adapter takes the text."""
        if not isinstance(options, dict):
            return options
        return {key: str(v).lower() if isinstance(v, bool) else str(v) for key, v in options.items()}


class LanguageModelSettings(_Section):
    """The model that answers: the small local one, or any OpenAI-compatible server."""

    base_url: str | None = Field(
        None, description="OpenAI-compatible server, or databricks://ENDPOINT; none starts the local model on loopback"
    )
    model: str = Field("smollm2-135m-instruct", description="the model's name at the server")
    api_key: SecretStr | None = Field(None, description="write it as ${NAME}: the name of an environment variable")
    max_tokens: int = Field(96, ge=8, description="tokens of an answer")
    timeout_seconds: float = Field(60, gt=0, description="of one call; a longer one counts as failed")


class AnswerSettings(_Section):
    """How questions are answered."""

    top_k: int = Field(10, ge=1, le=100, description="chunks retrieved and logged for a question")
    context_chunks: int = Field(2, ge=1, description="best chunks shown to the model")
    min_grounded_ratio: float = Field(
        0.6, ge=0, le=1, description="share of an answer's content words that its sources must contain"
    )
    min_score: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="a question whose best chunk scores less is not told of; none: as measured for all-minilm-l6-v2",
    )
    judge_url: str | None = Field(
        None, description="OpenAI-compatible server that is asked whether the sources say an answer; none: code judges"
    )
    judge_model: str = Field("judge", description="the judge's name at that server")
    judge_api_key: SecretStr | None = Field(None, description="as ${NAME}: the name of an environment variable")


class MlflowSettings(_Section):
    """Where traces and prompts go."""

    tracking_uri: str | None = Field(None, description="none: the sqlite file mlflow.db beside lakeloop.yml")
    experiment: str = Field("lakeloop", description="MLflow experiment of the traces")


class SparkSettings(_Section):
    """The Spark session that is started where none is running."""

    master: str = Field(
        "local[2]",
        description="local[N], spark://…, or sc://… for Spark Connect; spark-submit and SPARK_REMOTE are stronger",
    )
    driver_memory: str = Field("2g", pattern=r"^\d+[mg]$", description="heap of a local session, at most")
    conf: dict[str, str] = Field(default_factory=dict, description="any further Spark setting")


class MaintenanceSettings(_Section):
    """How the tables are kept as quick as they were, after however many runs."""

    files: int = Field(
        100,
        ge=0,
        description="tables are put in order once the log of runs lies in more files than this; 0: never by itself",
    )
    keep_days: int = Field(
        7, ge=1, description="days for which the files of older versions stay; so long can whoever is behind catch up"
    )


class Settings(_Section):
    """All settings of one workspace. Relative paths are relative to the folder of lakeloop.yml (`root`)."""

    root: Path = Field(default_factory=Path.cwd, description="set from the place of lakeloop.yml")
    catalog: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]+$", description="Unity Catalog catalog; none: Delta folders below `lakehouse`"
    )
    schema_prefix: str = Field("", pattern=r"^[A-Za-z0-9_]*$", description="put before bronze, silver, gold …")
    lakehouse: str = Field(
        "lakehouse", description="folder or s3://bucket/prefix of the Delta tables, where there is no catalog"
    )
    landing: str = Field("landing", description="folder or s3://bucket/prefix whose files are the documents")
    checkpoints: str = Field("checkpoints", description="folder where streams of records keep how far they came")
    report: str = Field("report.html", description="the page that the report stage writes, a file or an object")
    quality: str = Field("quality", description="folder of the Great Expectations suites and their Data Docs")
    storage_options: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="of object storage, such as aws_endpoint, where the environment does not say; a secret as ${NAME}",
    )
    ingest: IngestSettings = IngestSettings()
    parse: ParseSettings = ParseSettings()
    refine: RefineSettings = RefineSettings()
    records: RecordSources = Field(
        default_factory=dict, description="sources of records, by name; each becomes bronze.records_NAME and silver.*"
    )
    features: tuple[str, ...] = Field(
        (), description="definitions of feature tables, as package.module:NAME; each becomes gold.features_<its name>"
    )
    chunks: ChunkSettings = ChunkSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    index: IndexSettings = IndexSettings()
    language_model: LanguageModelSettings = LanguageModelSettings()
    answers: AnswerSettings = AnswerSettings()
    mlflow: MlflowSettings = MlflowSettings()
    spark: SparkSettings = SparkSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()

    @field_validator("lakehouse", "landing", "report")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        """Refuse a URL of anything but object storage, and a password in one."""
        if is_address(value) and (problem := address_problem(value)):
            raise ValueError(problem)
        return _checked(value, belongs_to="storage_options")

    @field_validator("checkpoints", "quality")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        """Refuse a URL, which would become a folder of that name below the workspace."""
        if is_address(value):
            raise ValueError(
                "it is a path of this machine, not an address: in object storage it is not supported yet. A bucket, a "
                "share or a volume that is mounted has a path"
            )
        return value

    @field_validator("records")
    @classmethod
    def _names_apart(cls, records: dict[str, RecordSettings]) -> dict[str, RecordSettings]:
        return check_source_names(records)

    def path(self, value: str) -> Path:
        """`value` as an absolute path; a relative one is taken from the workspace's root."""
        return (self.root / Path(value).expanduser()).absolute()

    def place(self, value: str) -> AnyPath:
        """`value` as a place of object storage if it is an address, else as `path`."""
        if not is_address(value):
            return self.path(value)
        note_environment()
        return ObjectPath.of(value, {key: option.get_secret_value() for key, option in self.storage_options.items()})

    @property
    def landing_path(self) -> AnyPath:
        return self.place(self.landing)

    @property
    def own_places(self) -> frozenset[str]:
        """The files and folders that lakeloop writes: nothing in them is input, wherever the input's folder is."""
        uri = self.index_uri
        index = [] if "://" in uri and not is_object_storage(uri) else [uri]
        return frozenset(
            str(self.place(place)) if is_address(place) else os.path.abspath(self.path(place))
            for place in (self.lakehouse, self.checkpoints, self.report, self.quality, "logs", "mlruns", *index)
        )

    @property
    def log_path(self) -> Path:
        return self.root / "logs" / "lakeloop.log"

    @property
    def index_uri(self) -> str:
        """Where the index is: a URL as it is (s3a:// as s3://), a folder as an absolute path."""
        if is_object_storage(self.index.uri):
            return str(self.place(self.index.uri))
        return self.index.uri if "://" in self.index.uri else str(self.path(self.index.uri))

    @property
    def tracking_uri(self) -> str:
        return self.mlflow.tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"


def named_section(annotation: Any) -> type[BaseModel] | None:
    """The section class of a setting that maps names to sections; None for any other setting."""
    inside = get_args(annotation)[1:] if get_origin(annotation) is dict else ()
    return next((of for of in inside if isinstance(of, type) and issubclass(of, BaseModel)), None)
