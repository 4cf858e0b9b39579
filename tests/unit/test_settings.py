"""Variables of the environment: unknown ones are refused, those of others are ignored."""

import pytest

from graphjobs import ConfigurationError, Settings, open_storage


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GRAPHJOBS_DATABSE_URL", "did you mean GRAPHJOBS_DATABASE_URL?"),
        ("GRAPHJOBS_POOLSIZE", "did you mean GRAPHJOBS_POOL_SIZE?"),
        ("GRAPHJOBS_DB_URL", "did you mean GRAPHJOBS_DATABASE_URL?"),
        ("GRAPHJOBS_database_url", "did you mean GRAPHJOBS_DATABASE_URL?"),
        ("graphjobs_databse_url", "did you mean GRAPHJOBS_DATABASE_URL?"),
        ("Graphjobs_Notify", "did you mean GRAPHJOBS_NOTIFY?"),
        ("GRAPHJOBS_X", "known are GRAPHJOBS_DATABASE_URL, DATA_DIR"),
        ("GRAPHJOBS_", "known are "),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "postgresql://alice:secret@localhost/a")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert str(caught.value).startswith(f"{name} is not a setting of graphjobs: {hint}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "GRAPHJOBS_TEST_DATABASE_URL",
        "GRAPHJOBS_BENCH_DATABASE_URL",
        "GRAPHJOBS_SERVICE_HOST",
        "GRAPHJOBS_PORT",
        "GRAPHJOBS_PORT_5432_TCP_ADDR",
        "GRAPHJOBS_DB_SERVICE_PORT_POSTGRES",
        "GRAPHJOBSX",
    ],
)
def test_a_variable_of_tests_or_of_kubernetes_is_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:5432")
    assert Settings.load(pool_size=3).pool_size == 3


async def test_a_storage_without_a_url_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHJOBS_DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="postgresql:// URL, or to embedded"):
        async with open_storage():
            pass


def test_the_embedded_server_is_selected_by_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHJOBS_DATABASE_URL", "embedded")
    assert Settings.load().is_embedded
    assert not Settings.load(database_url="postgresql:///embedded").is_embedded
