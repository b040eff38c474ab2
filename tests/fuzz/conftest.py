import pytest
from helpers.damaged_data import whole_sets


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return whole_sets(tmp_path_factory.mktemp("whole"))
