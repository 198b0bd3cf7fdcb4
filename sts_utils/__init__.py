"""Predict, before fine-tuning, how much each domain's performance will move."""

__all__ = ["compare", "predict"]


def __getattr__(name: str):
    """`sts_utils.predict(…)`: what it needs is imported when it is first asked for."""
    if name in __all__:
        from sts_utils.prediction import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'sts_utils' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
