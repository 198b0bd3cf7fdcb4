"""Predict, before fine-tuning, how much each domain's performance will move."""

import importlib


def __getattr__(name: str):
    """`sts_utils.predict(…)`: its module, which can be called, is imported when it is first asked for."""
    if name == "predict":
        return importlib.import_module("sts_utils.prediction.predict")
    raise AttributeError(f"module 'sts_utils' has no attribute {name!r}")
