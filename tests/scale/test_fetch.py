import argparse
import json

import datasets
import pytest
import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from sts_utils import config, models, saes
from sts_utils.corpora import rows
from sts_utils.scale import check
from sts_utils.scale import fetch as hub
from sts_utils.scale.fetch import Need
from sts_utils.store import FETCHED

ROW = {"question": "1+1?", "answer": "1+1=2\n#### 2", "solution": "2"}
ROW |= {"options": ["1", "2"], "answer_index": 1}


def small_sae(name):
    metadata = SAEMetadata(hook_name="blocks.23.hook_resid_post")
    cfg = TopKSAEConfig(d_in=64, d_sae=128, k=4, metadata=metadata)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TopKSAE(cfg)


@pytest.fixture
def fake(monkeypatch):
    """A hub that holds everything, says what it was asked, and can be made to fail."""
    asked, broken = [], set()

    def hub_commit(need):
        asked.append((need.repo_type, hub.repository(need), need.revision))
        if need.name in broken:
            raise OSError(f"{need.name} is gated\nsecond line")
        return need.revision or f"commit-of-{need.name}"

    def download(need, commit, to):
        if need.kind == "dataset":
            assert commit == (need.revision or f"commit-of-{need.name}")
            datasets.Dataset.from_list([ROW]).to_parquet(str(to))
        elif need.kind == "model":
            to.mkdir()
            (to / "config.json").write_text(json.dumps({"from": need.name, "commit": commit}))
        else:
            small_sae(need.name).save_model(to)

    monkeypatch.setattr(hub, "hub_commit", hub_commit)
    monkeypatch.setattr(hub, "download", download)
    return argparse.Namespace(asked=asked, broken=broken)


@pytest.fixture
def qwen():
    return config.load("qwen2.5-7b")


def test_offline_profiles_need_nothing():
    assert hub.needs(config.load("tiny")) == [] == hub.needs(config.load("smol"))


def test_the_paper_s_needs_are_named_and_pinned_where_known():
    found = {}
    for profile in config.load_all("paper"):
        found |= {(n.kind, n.name, n.split): n for n in hub.needs(profile)}
    for kind, name, split in (
        ("model", "meta-llama/Meta-Llama-3-8B-Instruct", ""),
        ("model", "Qwen/Qwen2.5-7B-Instruct", ""),
        ("model", "google/gemma-2-9b-it", ""),
        ("dataset", "GAIR/LIMO", "train"),
        ("dataset", "TIGER-Lab/MMLU-Pro", "test"),
        ("dataset", "TIGER-Lab/MMLU-Pro", "validation"),
        ("dataset", "open-r1/verifiable-coding-problems-python-10k", "train"),
        ("dataset", "moremilk/CoT_Reasoning_Mens_Mental_Health", "train"),
        ("sae", "llama-3-8b-it-res-jh/blocks.25.hook_resid_post", ""),
    ):
        assert (kind, name, split) in found
    loose = {n.name for n in found.values() if not n.revision and n.kind != "sae"}
    assert loose == {
        "GAIR/LIMO",
        "open-r1/verifiable-coding-problems-python-10k",
        "moremilk/CoT_Reasoning_Mens_Mental_Health",
    }
    assert all(len(n.revision) == 40 for n in found.values() if n.revision)
    assert len([n for n in found.values() if n.kind == "sae"]) == 1 + 5 + 8
    assert all(len(hub.repository(n).split("/")) == 2 for n in found.values())


def test_every_sae_of_every_profile_is_in_sae_lens_s_list_and_fits_its_profile():
    listed = saes.get_pretrained_saes_directory()
    for profile in (config.load(name) for name in config.names()):
        for need in hub.needs(profile):
            if need.kind == "sae":
                release = need.name.split("/")[0]
                model = listed[release].model.split("/")[-1]
                assert hub.repository(need) and model in profile.model.split("/")[-1]
        if "gemma-scope" in profile.sae:
            assert f"layer_{profile.layer}" in profile.sae


def test_needs_are_what_the_profile_names():
    needs = [(n.name, n.split) for n in hub.needs(config.load("smol-hub"))]
    assert needs == [("openai/gsm8k", "train"), ("TIGER-Lab/MMLU-Pro", "test")]


def test_fetch_writes_what_the_package_reads(tmp_path, fake, qwen, monkeypatch):
    done = hub.fetch(qwen, tmp_path)
    assert done == hub.needs(qwen) and all(hub.fetched(n, tmp_path) for n in done)
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    assert rows("GAIR/LIMO", "train") == [ROW]
    assert models.resolve(qwen.model) == tmp_path / qwen.model
    sae = saes.load(qwen.sae, 64, 23)
    torch.testing.assert_close(sae.W_enc.data, small_sae("").W_enc.data)
    assert saes.layer(qwen.sae) == 23 and all(hub.at_hand(n) for n in done)
    record = json.loads((tmp_path / qwen.model / FETCHED).read_text())
    assert record["commit"] == qwen.revision == record["revision"]
    record = json.loads((tmp_path / "GAIR/LIMO" / f"train.{FETCHED}").read_text())
    assert (record["commit"], record["revision"]) == ("commit-of-GAIR/LIMO", None)
    left = [f for f in tmp_path.rglob("*") if f.suffix in (".pt", ".pkl", ".bin")]
    assert not left and not list(tmp_path.rglob(".part*"))


def test_what_is_there_is_skipped_and_what_is_torn_is_not_there(tmp_path, fake, qwen):
    hub.fetch(qwen, tmp_path)
    (tmp_path / qwen.model / "config.json").unlink()
    fake.asked.clear()
    (again,) = hub.fetch(qwen, tmp_path)
    assert again.name == qwen.model and fake.asked == [("model", qwen.model, qwen.revision)]


def test_what_is_of_another_commit_than_the_pinned_is_fetched_again(
    tmp_path, fake, qwen, monkeypatch
):
    hub.fetch(qwen, tmp_path)
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    monkeypatch.setattr(check.HfApi, "auth_check", lambda *_, **__: None)
    assert check._reach(qwen) == []
    records = [tmp_path / qwen.model / FETCHED, tmp_path / "TIGER-Lab/MMLU-Pro/test.fetched.json"]
    for file in records:
        said = json.loads(file.read_text())
        file.write_text(json.dumps(said | {"commit": "0ld", "revision": "0ld"}))
    first, second = check._reach(qwen)
    assert (
        "MMLU-Pro (test)" in first
        and f"commit 0ld: run `python -m sts_utils fetch --profile qwen2.5-7b --folder {tmp_path}`"
        in first
    )
    assert qwen.model in second
    for torn in ("", "{}", "[]"):
        file.write_text(torn)
        assert f"commit unknown ({file} can't be read): run" in check._reach(qwen)[0]
    again = hub.fetch(qwen, tmp_path)
    assert {need.name for need in again} == {qwen.model, "TIGER-Lab/MMLU-Pro"}
    assert check._reach(qwen) == [] and hub.fetch(qwen, tmp_path) == []


def test_a_failure_is_one_line_and_keeps_what_was_fetched(tmp_path, fake, qwen):
    fake.broken.add(qwen.model)
    line = r"model\s+Qwen/Qwen2.5-7B-Instruct @a09\w+ can't be fetched \(OSError: "
    with pytest.raises(ValueError, match=line) as e:
        hub.fetch(qwen, tmp_path)
    assert "\n" not in str(e.value) and "second" not in str(e.value)
    assert (tmp_path / "GAIR/LIMO/train.parquet").exists() and not (tmp_path / qwen.model).exists()


def test_an_unknown_sae_is_named():
    line = "SAE 'gemma-scope-9b-it-res/layer_31' is not in sae-lens's list"
    with pytest.raises(ValueError, match=line):
        hub.repository(Need("sae", "gemma-scope-9b-it-res/layer_31"))


def test_the_command_lists_without_fetching(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "hub_commit", lambda need: pytest.fail("the hub was asked"))
    chosen = argparse.Namespace(profile="paper", folder=str(tmp_path), list=True)
    assert hub.run(chosen) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines))
    assert any("missing  model    google/gemma-2-9b-it @11c9" in line for line in lines)
    with pytest.raises(ValueError, match="give --folder, or set STS_MIRROR"):
        hub.run(argparse.Namespace(profile="paper", folder=None, list=False))


def test_a_control_needs_only_what_it_reads():
    paper, control = (hub.needs(config.load(f"{kind}gemma2-9b")) for kind in ("", "control-"))
    assert [need.kind for need in control].count("sae") == 1
    assert [need.kind for need in paper].count("sae") > 1
    assert not {need.name for need in control if need.kind == "dataset"} & {"GAIR/LIMO"}


def test_a_second_set_of_domains_is_needed_too(qwen):
    """`also` of a profile that reads its own from packages."""
    also = config.DomainSet(domains=qwen.domains, demonstrations=qwen.demonstrations)
    smol = config.load("smol").model_copy(update={"also": also})
    assert {need.name for need in hub.needs(smol)} == {"TIGER-Lab/MMLU-Pro"}
