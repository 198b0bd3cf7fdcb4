"""The package as people install it: a wheel, in an empty folder; and how soon it answers."""

import os
import subprocess
import sys

import pytest

from sts_utils import store


def test_commands_import_nothing_heavy_that_they_do_not_need():
    for word, said, heavy in (("--help", "demo", "numpy torch"), ("check", "smol: ", "sae_lens")):
        words = [sys.executable, "-Ximporttime", "-m", "sts_utils", word]
        found = subprocess.run(words, capture_output=True, text=True, check=word == "--help")
        assert said in found.stdout  # `check` may find that this machine lacks something
        assert not [name for name in [*heavy.split(), "sklearn"] if name in found.stderr]


@pytest.mark.slow
def test_a_wheel_answers_in_an_empty_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, store.ROOT]
    subprocess.run([*pip, *build], check=True)
    site, empty = tmp_path / "site", tmp_path / "empty"
    install = ["install", "--no-deps", "--target", site, *tmp_path.glob("*.whl")]
    subprocess.run([*pip, *install], check=True)
    empty.mkdir()
    own = os.environ | {"PYTHONPATH": str(site), "HOME": str(tmp_path / "home"), "STS_OUT": ""}
    demo = "-m sts_utils demo --model tiny --sae random-8x --queries 4 --n 20"
    words, how = [sys.executable, *demo.split()], {"cwd": empty, "env": own, "text": True}
    found = subprocess.run(words, capture_output=True, **how)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1].startswith("next: sts predict --train my.jsonl")
    assert {"index.html", "table.csv", "results.json"} <= {*os.listdir(empty / "demo")}
    assert list((tmp_path / "home/.cache/crystal-ball/data/runs").glob("prompt_features-*"))
    assert not (site / "sts_utils/files/data/runs").exists()
    assert len(list(site.glob("sts_utils/files/data/saes/*/*/cfg.json"))) == 8
