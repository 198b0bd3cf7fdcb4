from sts_utils.runs import engine, models


def test_a_released_gpu_holds_no_model(profile, monkeypatch):
    monkeypatch.setattr(models.torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: False)
    closed = []
    monkeypatch.setattr(engine, "close", lambda: closed.append(True))
    for load in (models.backbone, models.sae):
        load(profile)
    models.release()
    assert (
        models._truncated.cache_info().currsize
        and models._sae_on.cache_info().currsize
        and not closed
    )
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: True)
    models.release(engines=False)
    assert (
        not models._truncated.cache_info().currsize
        and not models._sae_on.cache_info().currsize
        and not closed
    )
    models.release()
    assert closed
