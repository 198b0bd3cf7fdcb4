"""The package as people install it: a wheel, in an empty folder; and how soon it answers."""

import os
import subprocess
import sys

import pytest

from sts_utils import store


def test_help_imports_nothing_heavy():
    words = [sys.executable, "-X", "importtime", "-m", "sts_utils", "--help"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "demo" in found.stdout and "numpy" not in found.stderr and "torch" not in found.stderr


@pytest.mark.slow
def test_a_wheel_answers_in_an_empty_folder(tmp_path):
    """Installed without its clone, it finds what it reads, and writes into the home folder."""
    pip = [sys.executable, "-m", "pip", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, store.ROOT]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    empty.mkdir()
    own = {k: v for k, v in os.environ.items() if not k.startswith("STS_")}
    own |= {"PYTHONPATH": str(site), "HOME": str(tmp_path / "home")}
    demo = ["demo", "--model", "tiny", "--sae", "random-8x", "--queries", "4", "--n", "20"]
    words = [sys.executable, "-m", "sts_utils", *demo]
    found = subprocess.run(words, cwd=empty, env=own, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1].startswith("next: sts predict --train my.jsonl")
    made = {path.name for path in (empty / "demo").iterdir()}
    assert {"index.html", "table.csv", "results.json"} <= made
    assert list((tmp_path / "home/.cache/crystal-ball/data/runs").glob("prompt_features-*"))
    assert not (site / "sts_utils/files/data/runs").exists()
    shipped = store.DATA / "saes/smollm2-135m-instruct"
    packed = site / "sts_utils/files/data/saes/smollm2-135m-instruct"
    assert {p.name for p in packed.iterdir()} >= {p.name for p in shipped.iterdir() if p.is_dir()}
