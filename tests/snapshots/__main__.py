"""`make snapshots`: writes all committed texts anew, from the code as it is."""

from tests.snapshots.interfaces import OPENAPI, PUBLIC_NAMES, openapi_text, public_names_text
from tests.snapshots.statements import SQL_FOLDER, rendered_statements


def main() -> None:
    """Write every snapshot, and remove those of statements that are gone."""
    rendered = rendered_statements()
    for path in SQL_FOLDER.glob("*/*.sql"):
        if path.relative_to(SQL_FOLDER).as_posix() not in rendered:
            path.unlink()
    for name, text in rendered.items():
        path = SQL_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    OPENAPI.write_text(openapi_text(), encoding="utf-8")
    PUBLIC_NAMES.write_text(public_names_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
