"""Generated dumps hold what they say they hold, and each document becomes what it says."""

from collections.abc import Iterator
from typing import Any

import pytest

from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.backfill.transform.mapping import Mapped, map_document
from tests.backfill import dumps
from tests.backfill.dumps import Defect, DumpGenerator, GeneratedDocument, Outcome

# These are told by what else there is, not by the document.
AMONG_OTHERS = {Defect.DUPLICATE_ID, Defect.EQUIVALENT_ID, Defect.ORPHAN}


def many(legacy_uuids: str) -> Iterator[GeneratedDocument]:
    """Documents of every kind, more of them dirty than is usual."""
    maker = DumpGenerator(11, dirty=10, legacy_uuids=legacy_uuids)
    yield from maker.jobs(3_000)
    yield from maker.runs(1_000)
    yield from maker.events(1_000)


def camel_case(value: Any) -> dict[str, Any]:
    """Gives a value's fields by the names they have in documents."""
    fields = type(value).model_fields
    return {field.alias or name: getattr(value, name) for name, field in fields.items()}


def test_the_same_seed_gives_the_same_documents() -> None:
    """And each kind of dirt is among them."""
    first = dumps.generate(6_000, 5, dirty=10)
    assert dumps.encode_file([made.document for made in first], "json") == dumps.encode_file(
        [made.document for made in dumps.generate(6_000, 5, dirty=10)], "json"
    )
    assert {*Defect} - {Defect.HUGE} == {why for made in first for why in made.causes if isinstance(why, Defect)}
    assert {*dumps.Repair} == {why for made in first for why in made.causes if isinstance(why, dumps.Repair)}


@pytest.mark.parametrize("legacy_uuids", ["csharp", "java", "python"])
def test_a_document_becomes_what_it_says(legacy_uuids: LegacyUuids) -> None:
    """Refused or not, under its own id where that was one, with its own fields."""
    for made in many(legacy_uuids):
        mapped = map_document(made.collection, made.document, legacy_uuids=legacy_uuids)
        if AMONG_OTHERS & {*made.causes}:
            continue
        assert (made.outcome is not Outcome.REJECTED) == isinstance(mapped, Mapped), made
        if isinstance(mapped, Mapped) and made.collection != dumps.EVENTS:
            got = camel_case(mapped.value)
            assert made.id in (None, got["id"])
            for name in made.fields.keys() - {"metadata", "inputs", "subjects"}:
                assert made.fields[name] == got[name], (name, made)
