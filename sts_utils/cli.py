"""The command line: `python -m sts_utils reproduce --profile smol --seeds 0,1,2`."""

import argparse
import contextlib
import os
import shutil
import sys

import torch
from papermill.exceptions import PapermillExecutionError

from sts_utils import check, config, notebooks, parallel, plan, run, store
from sts_utils.prediction import command
from sts_utils.store import FIGURES, RUNS

#: For processes on a CPU: glibc gives large tensors back to the system and asks for them again at
#: every step, and the page faults took a quarter of a fine-tuning step on two cores.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}
ALLOCATOR |= {"MALLOC_TOP_PAD_": str(2**28), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0, or 1 and 2 with one line for what failed."""
    parser = argparse.ArgumentParser(prog="python -m sts_utils")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told, function in (
        ("reproduce", "compute what is missing, run the notebooks", reproduce),
        ("render", "the same, and refresh the committed notebooks", reproduce),
        ("check", "can this machine run it, and at what cost?", check.main),
        ("fetch", "download what it needs into the hub's cache (HF_HOME)", check.fetch),
    ):
        add = commands.add_parser(name, help=told)
        add.set_defaults(run=function)
        add.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
        add.add_argument("--seeds", help="like 0,1,2; the profile's own if left out")
    command.add_parser(commands)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except (ValueError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        trace = RUNS / "last-error.txt"
        with contextlib.suppress(OSError):  # of a full disk
            trace.write_text("\n".join(error.traceback), encoding="utf-8")
        said = f"{error.ename}: {error.evalue.splitlines()[0]} (whole trace: {trace})"
        print(f"error: {said}", file=sys.stderr)
        return 1


def reproduce(chosen: argparse.Namespace) -> int:
    """The commands `reproduce` and `render`: compute what is missing, then run the notebooks."""
    profiles = {name: config.load(name, chosen.seeds) for name in config.members(chosen.profile)}
    variables = {"TQDM_MININTERVAL": "5"} | ({} if torch.cuda.is_available() else ALLOCATOR)
    os.environ.update(variables | dict(os.environ))
    for profile in profiles.values():
        if problems := check.problems(profile):
            raise ValueError(f"can't run {profile.name}: {'; '.join(problems)}")
    for folder in (RUNS, FIGURES):
        store.check_writable(folder, "set STS_OUT to a folder that can")
    store.clear_abandoned()
    for name, profile in profiles.items():
        check.prepare(profile)
        workers, how = check.workers(profile), {"weight": check.flops, "gpus": plan.gpus}
        how |= {"over_ray": profile.executor == "ray" or workers > 1, "release": run.release}
        parallel.compute(plan.rounds(profile), workers, **how)
        done = notebooks.run(profile, name)
        if chosen.command == "render":
            for other in notebooks.OTHERS:
                parameters = {} if other == "predict" else {"PROFILE": name}
                done.append(notebooks.execute(other, parameters, done[0].parent))
            for path in done:  # beside their sources, to be committed
                shutil.copy(path, notebooks.NOTEBOOKS / path.name)
        print(f"figures, tables and pages: {FIGURES / profile.name}/index.html")
        print(f"executed notebooks: {done[0].parent}")
    return 0
