"""Python imports this at its start, from PYTHONPATH: the defect that SEEDED names waits for transformers."""

import os
from importlib import import_module

if name := os.environ.get("SEEDED"):
    import_module("planted.plant").plant(name)
