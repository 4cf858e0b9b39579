"""Generated dumps have all defects, and each document is mapped to its expected outcome."""

from collections.abc import Iterator
from typing import Any

import pytest

from graphjobs.backfill.transform.legacy_ids import LegacyUuids
from graphjobs.backfill.transform.mapping import Mapped, map_document
from tests.backfill import dumps
from tests.backfill.dumps import Defect, DumpGenerator, GeneratedDocument, Outcome

# Defects that depend on other documents.
RELATIONAL = {Defect.DUPLICATE_ID, Defect.EQUIVALENT_ID, Defect.ORPHAN}


def many(legacy_uuids: str) -> Iterator[GeneratedDocument]:
    """Generate documents of every collection, with more defects than usual."""
    generator = DumpGenerator(11, dirty=10, legacy_uuids=legacy_uuids)
    yield from generator.jobs(3_000)
    yield from generator.runs(1_000)
    yield from generator.events(1_000)


def camel_case(value: Any) -> dict[str, Any]:
    """Return a value's fields by their names in documents."""
    fields = type(value).model_fields
    return {field.alias or name: getattr(value, name) for name, field in fields.items()}


def test_the_same_seed_gives_the_same_documents() -> None:
    """Every defect and every repair occurs."""
    first = dumps.generate(6_000, 5, dirty=10)
    assert dumps.encode_file([generated.document for generated in first], "json") == dumps.encode_file(
        [generated.document for generated in dumps.generate(6_000, 5, dirty=10)], "json"
    )
    causes = {cause for generated in first for cause in generated.causes}
    assert {*Defect} - {Defect.HUGE} == {cause for cause in causes if isinstance(cause, Defect)}
    assert {*dumps.Repair} == {cause for cause in causes if isinstance(cause, dumps.Repair)}


@pytest.mark.parametrize("legacy_uuids", ["csharp", "java", "python"])
def test_a_document_has_its_expected_outcome(legacy_uuids: LegacyUuids) -> None:
    for generated in many(legacy_uuids):
        mapped = map_document(generated.collection, generated.document, legacy_uuids=legacy_uuids)
        if RELATIONAL & {*generated.causes}:
            continue
        assert (generated.outcome is not Outcome.REJECTED) == isinstance(mapped, Mapped), generated
        if isinstance(mapped, Mapped) and generated.collection != dumps.EVENTS:
            fields = camel_case(mapped.value)
            assert generated.id in (None, fields["id"])
            for name in generated.fields.keys() - {"metadata", "inputs", "subjects"}:
                assert generated.fields[name] == fields[name], (name, generated)
