import pytest

from cxrlt.inputs.images import ImageSource
from tiny import make_tiny


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with folds; runs of different tests go by different names."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def single_source(tmp_path_factory) -> ImageSource:
    """The same with one class per image."""
    return make_tiny(tmp_path_factory.mktemp("tiny-single"), task="single_label")
