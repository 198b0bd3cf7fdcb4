"""What a process of the default run holds at its peak, whatever it computes one after the other."""

import subprocess
import sys

import pytest
import torch

SCRIPT = r"""
import re, sys
from pathlib import Path
from sts_utils import config, evaluate, models, questions, run, train
p = config.load("smol")
read, rows = questions.tokenizer(p), questions.training_examples(p, 0)[0]
rows = sorted(rows[: p.sft.examples], key=lambda e: -len(e.query + e.solution))[:4]
train.sft(p.model, None, p.sft, rows, 0, Path(sys.argv[1]))
asked = sum(questions.evaluation_questions(p).values(), [])
asked = sorted(asked, key=lambda e: -len(e.question + "".join(e.options)))[:8]
evaluate.option_likelihoods(models.load_model(str(Path(sys.argv[1]))), read, asked)
run.read(p, questions.training_pairs(p, 0)[:4], None)
own = Path("/proc/self/status").read_text()  # getrusage's begins at what pytest held at the fork
print(int(re.search(r"VmHWM:\s*(\d+)", own)[1]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="of a CPU")
def test_fine_tuning_evaluation_and_extraction_in_one_process_hold_4_gib(tmp_path):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "tuned")]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 2 < float(found.stdout.split()[-1]) < 4
