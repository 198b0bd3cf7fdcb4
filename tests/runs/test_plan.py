"""The one list of what a run computes."""

import importlib
import inspect
import time

import pytest

from sts_utils import config, corpora, models, store
from sts_utils.runs import plan as steps_
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step
from sts_utils.scale import plan

#: Profiles for which a machine without GPUs can say how many a training takes.
NAMES = [name for name in config.names() if not config.load(name).launcher]


def flat(step: Step) -> list[Step]:
    return [step, *(inner for arg in step.args if isinstance(arg, Step) for inner in flat(arg))]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_listed_without_reading_data_or_models(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("read while it was listed")

    for module, function in ((corpora, "load"), (models, "load_model"), (store, "folder")):
        monkeypatch.setattr(module, function, refuse)
    start = time.time()
    listed = plan.everything(config.load(name))
    assert listed and time.time() - start < 2


def test_every_step_is_a_call_that_another_process_can_make(profile):
    """The function is found by its module and name, and takes these arguments."""
    for step in (s for listed in plan.everything(profile) for s in flat(listed)):
        module = importlib.import_module(step.compute.__module__)
        assert getattr(module, step.compute.__qualname__) is step.compute, step.name
        inspect.signature(step.compute).bind(*step.args)


def test_each_round_needs_only_earlier_ones(profile):
    listed = plan.everything(profile)
    rounds = {step.name: step.after for step in listed}
    assert len(rounds) == len(listed)
    for step in listed:
        trained = [s for s in flat(step)[1:] if s.name in rounds]
        assert all(rounds[s.name] < step.after for s in trained), step.name
    assert sum(step.compute.__name__ == "finetune" for step in listed) == 4  # another set, Fig 6's
    own = [step for step in listed if step.stage != "07_control"]
    assert sum(step.compute.__name__ == "extract_domain" for step in own) == 2 * (14 + 13)


def test_figures_alone_need_the_base_run_alone(profile):
    names = {step.compute.__name__ for step in plan.everything(profile, whole=False)}
    base = {"finetune", "extract_train", "extract_domain", "extract_actual"}
    assert names == base | {"measure", "measure_held_out"}


def test_a_stage_computes_its_own_steps(profile):
    made = []

    def note(profile, number):
        made.append(number)

    listed = [Step("", note, (profile, n), stage, 3 - n) for n, stage in enumerate("aba")]
    assert plan.compute(profile, listed, stage="a") == 2
    assert made == [2, 0]


def test_an_argument_that_is_a_step_is_computed_where_it_is_needed(profile, tmp_path):
    trained = []
    model = TrainedModel("key", lambda: trained.append(True))

    def train(profile):
        return model

    def use(profile, model):
        return model.key

    inner = Step("", train, (profile,), "")
    assert steps_.call(Step("", use, (profile, inner), "")) == "key" and trained == [True]
