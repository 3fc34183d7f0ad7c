import pytest

from cxrlt.inputs.images import ImageSource
from tiny import make_tiny


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with folds; different tests use different run names."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def single_source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with one class per image."""
    return make_tiny(tmp_path_factory.mktemp("tiny-single"), task="single_label")
