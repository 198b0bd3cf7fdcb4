#!/usr/bin/env bash
# Every table of a profile from an empty store, as hashes: the same before and after a change that must not
# change numbers. `tests/golden.sh [PROFILE]` compares with tests/golden-PROFILE.sha256, or writes it where
# there is none. Claims are hashed by their numbers and verdicts, for their words may change. The last bits
# differ between kinds of processors: on another, make the hashes of the code before the change first.
set -euo pipefail
cd "$(dirname "$0")/.."
profile="${1:-tiny}"
name="$(basename "$profile" .yaml)"
golden="tests/golden-$name.sha256"
export STS_OUT="${STS_OUT:-$(mktemp -d)}" STS_EXECUTOR="${STS_EXECUTOR:-local}"
${PYTHON:-.venv/bin/python} -m sts_utils reproduce --profile "$profile" >"$STS_OUT/log.txt" 2>&1 || { tail -5 "$STS_OUT/log.txt"; exit 1; }
cd "$STS_OUT/figures/$name"
"${OLDPWD}/.venv/bin/python" - <<'PY' >numbers.sha256
import hashlib, pathlib
import pandas as pd
for path in sorted(pathlib.Path(".").glob("*.csv")):
    text = path.read_text()
    if path.name == "claims.csv":
        rows = pd.read_csv(path, dtype=str)[["figure", "value", "low", "high", "verdict"]]
        text = rows.sort_values(list(rows)).to_csv(index=False)
    print(hashlib.sha256(text.encode()).hexdigest()[:16], path.name)
PY
cd "$OLDPWD"
echo "$STS_OUT/figures/$name"
[ -f "$golden" ] || cp "$STS_OUT/figures/$name/numbers.sha256" "$golden"
diff "$golden" "$STS_OUT/figures/$name/numbers.sha256" && echo "every number of $name is as before"
