"""Every registered component, and every way to copy one, as parameters of a test."""

import copy
import pickle

import pytest

from gaze_torchrl import registry

registry.load()
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}
EVERY_COPY = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def every(*groups, broken=None):
    """Parametrise over the registered components of some groups; ``broken`` are the reasons of those known to fail."""
    known = {name: pytest.mark.xfail(strict=True, reason=reason) for name, reason in (broken or {}).items()}
    ids = {f"{entry.group}={entry.name}": entry for group in groups for entry in registry.entries(group)}
    parameters = [pytest.param(entry, id=name, marks=known.get(name, ())) for name, entry in ids.items()]
    return pytest.mark.parametrize("entry", parameters)
