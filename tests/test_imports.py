"""Every module can be imported on its own."""

import pkgutil
from importlib import import_module

import cxrlt


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.walk_packages(cxrlt.__path__, "cxrlt.")]
    assert len(names) > 40
    for name in names:
        if name != "cxrlt.__main__":
            import_module(name)
