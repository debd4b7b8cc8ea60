"""A refused record waits in the quarantine until it arrives repaired, in whichever delivery that is."""

from __future__ import annotations

import random

import pytest

from pipelines.conductor.run import new_context
from pipelines.operations.rebuild import rebuild
from pipelines.settings.sections import Settings
from tests.support.recorded import ORDERS, put, refused, run, settings_for

HEADER = "order_id,updated_at,amount,note,op\n"


def _waiting(settings: Settings, source: str) -> set[str]:
    found = [row["record"] for row in refused(settings, source)]
    assert len(set(found)) == len(found), "a record waits twice"
    return set(found)


@pytest.mark.long
def test_any_cut_of_refusals_and_repairs_leaves_those_that_were_refused_last(tmp_path, spark):
    chance = random.Random(11)
    arrivals = [
        (f"k{chance.randrange(5)}", chance.randrange(4), chance.choice(["1", "2", "no", "none"])) for _ in range(60)
    ]
    lines = [f"{key},2024-01-01T0{hour}:00:00Z,{amount},,U\n" for key, hour, amount in arrivals]
    last = {(key, hour): amount for key, hour, amount in arrivals}
    waiting = {key_and_hour for key_and_hour, amount in last.items() if not amount.isdigit()}
    assert 0 < len(waiting) < len(last)

    settings = settings_for(tmp_path, whole={**ORDERS, "location": "whole"}, cut={**ORDERS, "location": "cut"})
    put(settings, "1.csv", HEADER + "".join(lines), source="whole")
    put(settings, "1.csv", HEADER + "".join(lines[:25]), source="cut")
    run(settings)
    put(settings, "2.csv", HEADER + "".join(lines[25:]), source="cut")
    run(settings)
    expected = _waiting(settings, "whole")
    assert len(expected) == len(waiting)
    assert all(any(key in record and f"T0{hour}:" in record for record in expected) for key, hour in waiting)
    assert _waiting(settings, "cut") == expected

    # All arrivals are read once more, with every refusal that was ever repaired.
    outcome = rebuild(new_context(settings), "refine-records")
    assert [stage.counts["set_aside"] for stage in outcome.stages if stage.stage == "refine-records"] == [
        len(waiting),
        len(waiting),
    ]
    for source in ("whole", "cut"):
        assert _waiting(settings, source) == expected, source


def test_a_record_that_is_repaired_in_the_same_delivery_is_not_set_aside(tmp_path, spark):
    settings = settings_for(tmp_path, orders=ORDERS)
    put(settings, "1.csv", f"{HEADER}a,2024-01-01T00:00:00Z,no,,U\na,2024-01-01T00:00:00Z,1,,U\n")
    assert run(settings)["refine-records"]["set_aside"] == 0
    assert refused(settings) == []


@pytest.mark.long
def test_of_two_rows_that_a_delta_table_has_of_one_key_the_refused_one_waits(tmp_path, spark):
    people = {
        "format": "delta",
        "location": "./people",
        "key": ["id"],
        "columns": {"id": "string", "amount": "int"},
        "rules": [{"name": "is_positive", "predicate": "amount > 0"}],
    }
    settings = settings_for(tmp_path, people=people)
    table = f"delta.`{settings.path('people')}`"
    rows = spark.sql("SELECT * FROM VALUES ('a', -1), ('a', 1), ('b', 2) AS t(id, amount)").coalesce(1)
    rows.write.format("delta").option("delta.enableChangeDataFeed", "true").save(str(settings.path("people")))
    assert run(settings)["refine-records"]["set_aside"] == 1
    assert len(_waiting(settings, "people")) == 1
    spark.sql(f"DELETE FROM {table} WHERE amount = -1")
    run(settings)
    assert _waiting(settings, "people") == set()
