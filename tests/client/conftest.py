import pytest

from tests.client.programs import ROOT, compile_program


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the probe."""
    folder = tmp_path_factory.mktemp("client")
    return str(compile_program(ROOT / "tests/client/probe.c", folder / "probe", "-std=gnu11", "-pthread"))
