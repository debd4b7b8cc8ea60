"""The wheel: exactly the packages lakeloop, transformations, expectations and pipelines, and the command `lakeloop`."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ("lakeloop", "transformations", "expectations", "pipelines")

# The core runs where Spark is already present (Databricks, a cluster). Each extra is one role of a machine;
# `local` is all of them: what a laptop needs.
EXTRAS = {
    # The last two are for Spark Connect, by which `lakeloop pipelines` and sc://… run.
    "spark": ["pyspark==4.2.0", "pandas>=2.2,<3", "grpcio-status>=1.67", "zstandard>=0.22"],
    "documents": [
        "docutils>=0.21",
        "markdown-it-py>=3.0",
        "markitdown[docx,pptx,xlsx]>=0.1.4",
        "py3langid>=0.3",
        "pypandoc-binary>=1.17",  # brings pandoc, whose reader of AsciiDoc is run as a program of its own
        "pypdfium2>=5.0",
        "tokenizers>=0.20",
        "trafilatura>=2.0",
    ],
    # Great Expectations imports Spark Connect, which ends the process without a word where these are missing.
    "quality": ["great-expectations>=1.24,<2", "grpcio-status>=1.67", "zstandard>=0.22"],
    "lance": ["pylance>=8.0"],
    "embedding": ["onnxruntime>=1.20", "tokenizers>=0.20"],
    "language": ["openai>=2.0", "xllamacpp>=2026.7"],
    "mlflow": ["mlflow>=3.17,<4"],
    "report": ["jinja2>=3.1", "matplotlib>=3.9"],
    "demo": ["unearth>=0.19", "psutil>=6.0"],
    "watch": ["watchfiles>=1.0"],
}
EXTRAS["local"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

# What only some want: personal data found in texts, each further store, tables in a bucket, each library whose
# retriever we are. Annoy comes as source: it wants a compiler.
EXTRAS |= {
    "pii": ["presidio-analyzer>=2.2.360"],
    "chroma": ["chromadb>=1.5"],
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2"],
    "faiss": ["faiss-cpu>=1.13"],
    "annoy": ["annoy>=1.17.3", "numpy>=1.24"],
    "scann": ["scann>=1.4.2; sys_platform == 'linux'"],
    "pgvector": ["psycopg[binary]>=3.2", "pgvector>=0.4"],
    "databricks": ["databricks-ai-search>=0.81"],
    "object-storage": ["obstore>=0.10"],
    "langchain": ["langchain-core>=1.0"],
    "llamaindex": ["llama-index-core>=0.14"],
}

setup(
    name="lakeloop",
    version="0.1.0",
    description="Lakehouse data and feature pipelines that close the loop",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=[name + suffix for name in PACKAGES for suffix in ("", ".*")]),
    package_data={
        # Definition files of declared pipelines, which are executed one by one and are no package; files of the sample.
        "pipelines": ["py.typed", "**/*.j2", "**/*.jsonl", "declarative/*.py", "demo/sample/**"],
        "lakeloop": ["py.typed"],
        "transformations": ["py.typed"],
        "expectations": ["py.typed"],
    },
    install_requires=[
        "deltalake>=1.2",
        "platformdirs>=4.0",
        "pyarrow>=17",
        "pydantic>=2.9",
        "pyyaml>=6.0",
        "rich>=13.0",
        "typer>=0.15",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["lakeloop = pipelines.cli.main:main"]},
)
