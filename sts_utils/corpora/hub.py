"""Corpora from the mirror or the hub: the columns that corpora.yaml names become examples."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from sts_utils.corpora.entries import Entry
from sts_utils.corpora.packaged import boxed, mmlu_categories
from sts_utils.examples import Example


def rows(path: str, split: str, **more) -> list[dict]:
    """Rows of a dataset: from ``$STS_MIRROR/<path>/<split>.parquet`` first, then the hub."""
    mirror = os.environ.get("STS_MIRROR")
    file = Path(mirror or "$STS_MIRROR") / path / f"{split}.parquet"
    if mirror and file.exists():
        from pyarrow import parquet

        return parquet.read_table(file).to_pylist()  # datasets would cache it by its name and time
    import datasets

    try:
        return datasets.load_dataset(path, split=split, **more).to_list()
    except Exception as error:  # the hub client raises a dozen unrelated types
        first, *_ = str(error).split("\n")
        said = f"dataset {path!r} ({split}) can't be fetched from the hub"
        why = f"{type(error).__name__}: {first}"
        raise ValueError(f"{said} ({why}); the mirror path would be {file}") from None


def examples(entry: Entry) -> list[Example]:
    """The corpus of an entry. Raises ValueError, in one line, for a row without a column of it."""
    made = []
    for number, row in enumerate(rows(**entry.hub)):
        values = {field: _value(row, of, entry.name) for field, of in entry.columns.items()}
        if None in values.values():
            continue
        listed = [o.strip() for o in values.get("options", ())]
        answer = listed[int(values["answer_index"])] if listed else values.get("answer", "")
        options = tuple(o for o in listed if o != "N/A")
        if options.count(answer) > 1:  # no single gold option
            continue
        example = Example(
            question=values["question"].strip(),
            solution=values.get("solution", ""),
            answer=str(answer),
            domain=values.get("domain", entry.domain),
            id=entry.id.format_map(row | {"row": number}),
            options=options,
            instruction=entry.instruction,
        )
        made.append(example)
    return made


def _value(row: Mapping, of: str | Mapping, corpus: str):
    """What a field is made of: a column, or {transform: column(s)}."""
    if isinstance(of, str):
        return _cell(row, of, corpus)
    ((transform, columns),) = of.items()
    listed = [columns] if isinstance(columns, str) else columns
    return TRANSFORMS[transform](*(_cell(row, column, corpus) for column in listed))


def _cell(row: Mapping, column: str, corpus: str):
    name = column.removesuffix("?")
    if row.get(name) is None and name == column:
        has = ", ".join(row)
        raise ValueError(f"corpus {corpus!r} has a row without field {name!r} (it has {has})")
    return row.get(name)


# --- transforms: None leaves the row out ---------------------------------------------------------


def gsm_answer(chain: str) -> str:
    """What stands behind GSM8K's ####."""
    return chain.split("####")[-1].strip()


def last_boxed(solution: str) -> str:
    """What stands in the last \\boxed{...} of a solution, braces matched; "" without one."""
    start = solution.rfind("\\boxed{")
    if start < 0:
        return ""
    depth, start = 0, start + len("\\boxed{")
    for end in range(start, len(solution)):
        if solution[end] == "}" and depth == 0:
            return solution[start:end]
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
    return ""


def python_block(code: str | None) -> str:
    """Code in a fence, unless it stands in one."""
    code = (code or "").strip()
    return code if code.startswith("```") else f"```python\n{code}\n```"


def reasoned(details: Mapping | str | None, answer: str) -> str:
    """The reasoning that a row's metadata hold (perhaps as JSON), then the answer."""
    details = json.loads(details) if isinstance(details, str) and details else details or {}
    return f"{(details.get('reasoning') or '').strip()}\n{answer.strip()}".strip()


TRANSFORMS = {
    "boxed": lambda solution: last_boxed(solution) or None,
    "gsm_answer": gsm_answer,
    "gsm_chain": lambda chain: boxed(chain, gsm_answer(chain)),
    "mmlu_category": lambda subject: mmlu_categories().get(subject),
    "python_block": python_block,
    "reasoned": reasoned,
    "code": lambda code: (code or "").strip() or None,
    "stripped": str.strip,
    "worked": lambda chain: (chain or "").removeprefix("A: ").strip(),
}
