"""Services type-check: the examples of the pages and a service, with mypy and pyright, both strict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_examples import python_examples

_ROOT = Path(__file__).resolve().parents[2]
_SERVICE = Path(__file__).with_name("typed_service.py")
_PYRIGHT_CONFIG = {"typeCheckingMode": "strict", "extraPaths": [str(_ROOT)]}
_CHECKERS = {
    "mypy": ("mypy", "--strict", "--no-incremental"),
    "pyright": ("basedpyright", "--pythonpath", sys.executable),
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the service and the examples."""
    folder = tmp_path_factory.mktemp("services")
    (folder / "service.py").write_text(_SERVICE.read_text(encoding="utf-8"), encoding="utf-8")
    for number, code in enumerate(python_examples()):
        (folder / f"example_{number}.py").write_text(code, encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(json.dumps(_PYRIGHT_CONFIG), encoding="utf-8")
    return folder


def _check(folder: Path, checker: str, file: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *_CHECKERS[checker], file]
    environment = {**os.environ, "MYPYPATH": str(_ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("checker", list(_CHECKERS))
def test_services_type_check(services: Path, checker: str) -> None:
    """Neither checker reports an error."""
    done = _check(services, checker, ".")
    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_checkers_see_an_error(services: Path) -> None:
    """Without a check of the result, its job may be None: pyright must say so."""
    wrong = _SERVICE.read_text(encoding="utf-8").replace("result.job if result else None", "result.job.id")
    (services / "wrong.py").write_text(wrong, encoding="utf-8")
    found = _check(services, "pyright", "wrong.py").stdout
    (services / "wrong.py").unlink()
    assert "reportOptionalMemberAccess" in found
