"""Languages of sentences written for this test, of code, of numbers and of nothing."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from transformations.errors import MissingDependencyError
from transformations.text import language
from transformations.text.language import detect_language, with_language

SENTENCES = {
    "en": "Every run compares the files of the folder with what it found there the last time.",
    "de": "Jeder Lauf vergleicht die Dateien im Ordner mit dem, was er beim letzten Mal dort fand.",
    "fr": "Chaque exécution compare les fichiers du dossier avec ce qu'elle y avait trouvé la dernière fois.",
    "es": "Cada ejecución compara los archivos de la carpeta con lo que encontró allí la última vez.",
    "it": "Ogni esecuzione confronta i file della cartella con quello che vi aveva trovato l'ultima volta.",
    "nl": "Elke uitvoering vergelijkt de bestanden in de map met wat er de vorige keer werd gevonden.",
    "pl": "Każde uruchomienie porównuje pliki w folderze z tym, co znalazło tam ostatnim razem.",
    "ru": "Каждый запуск сравнивает файлы в папке с тем, что было найдено там в прошлый раз.",
    "tr": "Her çalıştırma, klasördeki dosyaları geçen sefer orada bulduklarıyla karşılaştırır.",
    "ja": "実行するたびに、フォルダのファイルを前回見つけたものと比べます。",
    "zh": "每次运行都会把文件夹中的文件与上次找到的内容进行比较。",
    "ko": "실행할 때마다 폴더의 파일을 지난번에 찾은 것과 비교합니다.",
    "ar": "كل تشغيل يقارن ملفات المجلد بما وجده هناك في المرة السابقة.",
    "el": "Κάθε εκτέλεση συγκρίνει τα αρχεία του φακέλου με όσα βρήκε εκεί την τελευταία φορά.",
}
CODE = "```python\nfor row in table.read(version=3):\n    print(row.where_is_the_value)\n```\n"


@pytest.mark.parametrize("code", SENTENCES)
def test_one_sentence_tells_its_language(code: str):
    found = detect_language(SENTENCES[code])
    assert found.code == code
    assert 0.5 <= found.confidence <= 1


def test_code_and_addresses_do_not_count_beside_prose():
    aside = "Siehe [hier](https://example.com/the/english/manual) und `the_run`."
    text = f"# Lauf\n\n{CODE * 20}\n{SENTENCES['de']} {aside}\n"
    assert detect_language(text).code == "de"
    assert detect_language(text.replace("```python", "~~~").replace("```", "~~~")).code == "de"


@pytest.mark.parametrize(
    "text",
    [
        None, "", " \n\n", "12.5 | 17 | 2024-03-01", "--- *** ---", CODE, "    indented = code(1)\n",
        "https://example.com/where/is/this", "<img src='the picture of a house'>", "`the run`", "Hi", "OK",
        "numpy 2.4.6",
    ],
)  # fmt: skip
def test_what_is_no_prose_or_too_little_of_it_is_undetermined(text: str | None):
    assert detect_language(text).code == "und"


def test_a_batch_keeps_its_rows_and_gets_two_columns():
    batch = pa.RecordBatch.from_pydict({"id": [1, 2, 3], "text": [SENTENCES["fr"], None, CODE]})
    found = with_language(batch)
    assert found.schema.names == ["id", "text", "language", "language_confidence"]
    assert found.column("language").to_pylist() == ["fr", "und", "und"]
    assert with_language(batch) == found


def test_only_the_beginning_of_a_long_text_is_judged():
    assert detect_language(SENTENCES["en"] * 400 + SENTENCES["de"] * 4000).code == "en"


def test_a_beginning_in_another_language_does_not_outweigh_the_rest():
    text = SENTENCES["en"] * 12 + SENTENCES["de"] * 400
    assert detect_language(text).code == "de"
    read = language._prose(text)
    assert len(read) < 2100  # what the classifier takes time for
    assert SENTENCES["en"][:40] in read
    assert SENTENCES["de"][:10] in read[len(read) // 2 :]


@pytest.mark.parametrize(
    "text",
    [
        f"1. Punkt\n\n    {SENTENCES['de']}\n\n    {SENTENCES['de']}",
        f"Absatz\n    {SENTENCES['de']}",
        f"```the run```: {SENTENCES['de']}\n{SENTENCES['de']}",
        f"> {CODE.replace(chr(10), chr(10) + '> ')}\n\n{SENTENCES['de']}",
        f"    indented = code(1)\n\n    of_it(more)\n\n{SENTENCES['de']}",
    ],
)
def test_what_stands_beside_or_like_code_is_prose(text: str):
    assert detect_language(text).code == "de"
    assert "where_is_the_value" not in language._prose(text)
    assert "of_it" not in language._prose(text)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language._identifier.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"lakeloop\[documents\]"):
        detect_language(SENTENCES["en"])
    monkeypatch.undo()
    language._identifier.cache_clear()
