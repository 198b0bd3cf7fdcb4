"""Predict, before fine-tuning, how much each domain's performance will move."""


def __getattr__(name: str):
    """`sts_utils.predict(…)`: what it needs is imported when it is first asked for."""
    if name == "predict":
        from sts_utils.prediction.predict import predict

        return predict
    raise AttributeError(f"module 'sts_utils' has no attribute {name!r}")
