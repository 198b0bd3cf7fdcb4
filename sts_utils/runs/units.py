"""Old names of runs/models.py and runs/features.py, until nobody imports them."""

from sts_utils.method import score, shift
from sts_utils.runs import features as features_
from sts_utils.runs.features import extract as features  # noqa: F401
from sts_utils.runs.features import extract_actual as actual_stats  # noqa: F401
from sts_utils.runs.features import extract_domain as domain_stats
from sts_utils.runs.features import extract_domain_after as domain_after  # noqa: F401
from sts_utils.runs.features import extract_train as train_stats
from sts_utils.runs.features import ROLLOUTS, rollouts, settings_of  # noqa: F401
from sts_utils.runs.models import TrainedModel as Trained  # noqa: F401
from sts_utils.runs.models import backbone, release, sae, sink_norm, sweep, sweep_names, with_sae  # noqa: F401
from sts_utils.runs.models import finetune as finetuned
from sts_utils.runs.models import load_whole as performing  # noqa: F401
from sts_utils.runs.models import train_once as trained  # noqa: F401
from sts_utils.runs.models import training_logs as logs
from sts_utils.runs.samples import evaluation_questions


def training_log(profile):
    return logs({f"seed {seed}": finetuned(profile, seed) for seed in profile.seeds})


def dims(profile, seed, n=0):
    return shift.shifted_dims(
        train_stats(profile, seed), profile.top_n if n == 0 else n, profile.definition
    )


def score_parts(profile, metric, seed, chosen=None):
    chosen = dims(profile, seed) if chosen is None else chosen
    return {
        d: score.parts(domain_stats(profile, d, seed), chosen, metric, profile.definition)
        for d in evaluation_questions(profile)
    }


def prepare(profile):
    from sts_utils.runs import check

    check.prepare(profile)
