"""`sts COMMAND …`, or `python -m sts_utils COMMAND …`: nothing is imported but for a command."""

import argparse
import sys
from importlib import import_module

COMMANDS = {
    "demo": "an answer in minutes: what the worked example would move, as a report",
    "predict": "which domains will fine-tuning on your data move?",
    "reproduce": "the paper's method: compute what is missing, run the notebooks",
    "render": "the same, and refresh the committed notebooks",
    "check": "can this machine run a profile, and at what cost?",
    "fetch": "download what a profile needs into the hub's cache (HF_HOME)",
    "train-sae": "train an SAE for a model without one",
}


def main(words: list[str] | None = None) -> int:
    """Run a command; 0, or 2 with one line for what failed."""
    words = sys.argv[1:] if words is None else words
    lines = [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    how = {"epilog": "\n".join(lines), "formatter_class": argparse.RawTextHelpFormatter}
    parser = argparse.ArgumentParser("sts", "sts COMMAND [--help] …", **how)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of these:")
    parser.parse_args(words[:1])
    if words[0] == "demo":
        words = ["predict", "--seeds", "0", "--queries", "8", "--out", "demo", *words[1:]]
    command = import_module(f"sts_utils.{'check' if words[0] in ('check', 'fetch') else 'cli'}")
    try:
        return command.main(words)
    except (ValueError, OSError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
