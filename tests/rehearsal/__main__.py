"""`make rehearse PROFILE=llama3-8b`: a paper profile run whole on a CPU, on a small hub.

The profile as it is, with three substitutions alone: its model and SAEs are random and narrow (of
the real classes and file formats), and `sizes.yaml`. The launcher takes two CPU processes for GPUs.
Ends with 0 if every notebook ran and every figure and table was drawn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rehearsal import hub

from sts_utils import config
from sts_utils.report import page, run
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
    return profile, os.environ | {
        "STS_MIRROR": str(folder / "mirror"),
        "STS_OUT": str(folder),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "STS_EXECUTOR": os.environ.get("STS_EXECUTOR", "local"),  # an engine a step takes long
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # narrow models gain by none
        "SAE_WIDTH": str(hub.WIDTH),
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }


def missing(folder: Path, name: str) -> list[str]:
    """Figures, tables and notebooks of a whole run that are not there."""
    kinds = {"figure": "png", "table": "csv"}
    stages = [stage for stage in run.STAGES if stage != run.CONTROL]
    sweep = config.load(name).sweep  # a model with one public SAE has nothing to sweep
    swept = {"fig4a": sweep.widths, "fig4b": sweep.layers, "fig4c": sweep.sparsities}
    drawn = [r for r in page.RESULTS if r.notebook != run.CONTROL and swept.get(r.name, True)]
    files = [f"figures/{name}/{r.name}.{kinds[r.kind]}" for r in drawn]
    files += [f"runs/notebooks/{name}/{stage}.ipynb" for stage in stages]
    files += [f"figures/{name}/index.html"]
    return [file for file in files if not (folder / file).is_file()]


def rehearse(name: str, folder: Path, sizes: dict | None = None, figures: str | None = None) -> int:
    """Run profile `name` on its small hub in `folder`; 0 if nothing is missing."""
    start = time.time()
    profile, environment = prepare(name, folder, sizes or {})
    print(f"{name}: a small hub in {time.time() - start:.0f} s", flush=True)
    words = [sys.executable, "-m", "sts_utils", "reproduce", "--profile", str(profile)]
    words += ["--figures", figures] if figures else []
    code = subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode
    lost = [] if figures or (sizes or {}).get("stages") else missing(folder, name)
    took, said = time.time() - start, ", ".join(lost) or "nothing"
    print(f"{name}: {took:.0f} s, exit code {code}, missing: {said}")
    return code or bool(lost)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one if left out")
    parser.add_argument("--figures")
    chosen = parser.parse_args()
    names = config.groups().get(chosen.profile, (chosen.profile,))
    codes = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
            folder = chosen.folder / name if chosen.folder else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            codes.append(rehearse(name, folder.absolute(), figures=chosen.figures))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
