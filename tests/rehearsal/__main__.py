"""`make rehearse PROFILE=llama3-8b`: a paper profile run whole on a CPU, on a small hub.

The profile as it is, with three substitutions alone: its model and SAEs are random and narrow (of
the real classes and file formats), and `sizes.yaml`. The launcher takes two CPU processes for GPUs.
Ends with 0 if every notebook ran and every figure and table was drawn. With `NODES=2` the run is
made once more over so many Ray nodes of this machine, of which one is killed in its middle; its
tables must be those of before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import yaml
from rehearsal import hub

from sts_utils import config, notebooks
from sts_utils.store import ROOT

HERE = Path(__file__).parent


def prepare(name: str, folder: Path, sizes: dict) -> tuple[Path, dict[str, str]]:
    """The small hub of profile `name` in `folder`; the rehearsal's profile and environment."""
    hub.build(folder, config.load(name))
    launcher = yaml.safe_load((ROOT / "profiles/accelerate/fsdp.yaml").read_text(encoding="utf-8"))
    launcher |= {"use_cpu": True, "num_processes": 2}
    (folder / "fsdp.yaml").write_text(yaml.safe_dump(launcher))
    told = {"base": name, "about": "A rehearsal.", "launcher": str(folder / "fsdp.yaml")}
    told |= yaml.safe_load((HERE / "sizes.yaml").read_text(encoding="utf-8")) | sizes
    profile = folder / f"{name}.yaml"
    profile.write_text(yaml.safe_dump(told))
    environment = {"STS_MIRROR": str(folder / "mirror"), "STS_OUT": str(folder)}
    environment |= {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment |= {"SAE_WIDTH": str(hub.WIDTH), "PYTHONPATH": path}
    # an engine a step takes long, and narrow models gain by no more threads
    return profile, {"STS_EXECUTOR": "local", "OMP_NUM_THREADS": "1"} | os.environ | environment


def missing(folder: Path, name: str) -> list[str]:
    """Figures, tables and notebooks of a whole run that are not there."""
    profile = config.load(name)
    sweep = profile.sweep  # a model with one public SAE has nothing to sweep
    swept = {"fig4a": sweep.widths, "fig4b": sweep.layers, "fig4c": sweep.sparsities}
    made = {path.name for path in (ROOT / "figures/smol").iterdir()}  # of the default run
    drawn = [f for f in made if f.endswith((".png", ".csv")) and swept.get(f.split(".")[0], True)]
    files = [f"figures/{name}/{file}" for file in [*drawn, "index.html"]]
    files += [f"runs/notebooks/{name}/{stage}.ipynb" for stage in notebooks.stages(profile)]
    return [file for file in files if not (folder / file).is_file()]


def rehearse(name: str, folder: Path, sizes: dict | None = None, nodes: int | None = None) -> int:
    """Run profile `name` on its small hub in `folder`; 0 if nothing is missing."""
    start = time.time()
    profile, environment = prepare(name, folder, sizes or {})
    print(f"{name}: a small hub in {time.time() - start:.0f} s", flush=True)
    words = [sys.executable, "-m", "sts_utils", "reproduce", "--profile", str(profile)]
    code = subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode
    lost = [] if (sizes or {}).get("stages") else missing(folder, name)
    took, said = time.time() - start, ", ".join(lost) or "nothing"
    print(f"{name}: {took:.0f} s, exit code {code}, missing: {said}", flush=True)
    return code or bool(lost) or bool(nodes and over_nodes(words, environment, folder, nodes))


def over_nodes(words: list[str], environment: dict, folder: Path, nodes: int) -> int:
    """The run once more, over Ray nodes of a core each, of which the last is killed when half of
    what the run before stored is there; 0 if its tables are that run's, to the bit."""
    from ray.cluster_utils import Cluster

    from sts_utils.plan import PATIENCE

    start, out = time.time(), folder / "nodes"
    with mock.patch.dict(os.environ, environment | PATIENCE):  # of the nodes
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        *_, last = [cluster.add_node(num_cpus=1) for _ in range(1, nodes)]
    try:
        told = {"STS_OUT": str(out), "STS_EXECUTOR": "ray", "RAY_ADDRESS": cluster.address}
        process = subprocess.Popen(words, cwd=ROOT, env=environment | told)
        while process.poll() is None and stored(out) < stored(folder) / 2:
            time.sleep(1)
        cluster.remove_node(last, allow_graceful=False)
        print(f"a node is killed, {stored(out)} artifacts are stored", flush=True)
        code = process.wait()
    finally:
        cluster.shutdown()
    tables = sorted(file.relative_to(folder) for file in (folder / "figures").rglob("*.csv"))
    pairs = [(t, folder / t, out / t) for t in tables]
    other = [str(t) for t, a, b in pairs if not (b.is_file() and a.read_bytes() == b.read_bytes())]
    took, said = time.time() - start, ", ".join(other) or f"none of {len(tables)}"
    print(f"over {nodes} nodes: {took:.0f} s, exit code {code}, tables that differ: {said}")
    return code or bool(other) or not tables


def stored(folder: Path) -> int:
    """Artifacts of a run, without its notebooks."""
    return sum(not f.name.startswith(".") for f in (folder / "runs").glob("*-*"))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one if left out")
    parser.add_argument("--nodes", type=int, help="two or more: once more over so many Ray nodes")
    chosen = parser.parse_args()
    if chosen.nodes is not None and chosen.nodes < 2:
        parser.error(f"--nodes {chosen.nodes}: one is killed, give 2 or more")
    codes = []
    for name in config.members(chosen.profile):
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
            folder = chosen.folder / name if chosen.folder else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            codes.append(rehearse(name, folder.absolute(), nodes=chosen.nodes))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
