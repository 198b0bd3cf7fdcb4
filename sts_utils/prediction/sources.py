"""People's own data: files, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import ast
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from string import ascii_uppercase as LETTERS

import pandas as pd
import pyarrow as pa
import yaml
from datasets import Dataset, IterableDataset
from pyarrow.parquet import ParquetFile

from sts_utils import corpora, store
from sts_utils.examples import Example, by_domain

#: What a column is for -> the names it is recognised by, the first that is there.
COLUMNS = yaml.safe_load((store.DATA / "columns.yaml").read_text(encoding="utf-8"))
#: Who speaks in a chat -> the names that formats have for it.
SPEAKERS = {"User": ("user", "human", "prompter"), "System": ("system", "developer")}
SPEAKERS |= {"Assistant": ("assistant", "gpt", "model", "chatgpt", "bot", "function_call")}
SPEAKERS |= {"Tool": ("tool", "function", "ipython", "observation", "function_response")}
SPEAKER = {name: who for who, names in SPEAKERS.items() for name in names}
#: Columns that are options, one each: their common beginning, and the letter or number of each.
OPTION = re.compile(r"(option|choice|ending|op|sol|distractor|)[ _]?([a-j]|\d)")
#: An answer that is a letter, and perhaps the option's text behind it.
LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.):]\s*(\S.*)?)?", re.DOTALL)
FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
#: Columns of labels that beside an answer are a grade of it (KTO's).
GRADES = ("label", "target")
#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000


def files_of(source) -> list[Path]:
    """The files of a source that is a file, a folder of shards, or a list of files; else none."""
    if isinstance(source, str | Path):
        path = Path(source)
        inside = sorted(p for p in path.rglob("*") if _kind(p)) if path.is_dir() else [path]
        if not inside or not all(map(_kind, inside)):
            kinds = ", ".join(FILES)
            raise ValueError(
                f"no file of {kinds} (or .gz of one); corpora: {', '.join(corpora.TABLE)}"
            )
        return inside
    named = isinstance(source, list | tuple) and source
    named = named and all(isinstance(x, str | Path) and _kind(Path(x)) for x in source)
    return [Path(x) for x in source] if named else []


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in FILES if name.endswith(kind)), "")


def rows_of(source) -> Iterator:
    """Its rows, one at a time: of JSON the line, of CSV columns of text, of Arrow a scalar."""
    if files := files_of(source):
        yield from chain.from_iterable(map(_rows_of_file, files))
    elif isinstance(source, Dataset | IterableDataset):
        decoded = [n for n, f in (source.features or {}).items() if hasattr(f, "decode")]
        for part in source.remove_columns(decoded).with_format("arrow").iter(1000):
            yield from part.to_struct_array()
    else:
        yield from source


def _rows_of_file(path: Path) -> Iterator:
    kind, how = _kind(path), {"encoding": "utf-8-sig"}
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    if kind == ".parquet":
        for part in ParquetFile(path).iter_batches(1000):
            yield from part.to_struct_array()
    elif kind in (".arrow", ".feather"):
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file if file.read(6) == b"ARROW1" else pa.ipc.open_stream
            file.seek(0)
            for part in reader(file).read_all().to_batches(1000):
                yield from part.to_struct_array()
    elif kind in (".csv", ".tsv"):
        with opened(path, "rt", **how) as file:
            header = file.readline()
        separator = max(",;\t|", key=header.count)
        how |= {"sep": separator, "dtype": str, "keep_default_na": False, "chunksize": 1000}
        for part in pd.read_csv(path, **how):
            if not isinstance(part.index, pd.RangeIndex):  # pandas would shift the columns
                raise ValueError(f"a row has more fields than the header's {part.shape[1]}")
            yield from part.to_dict("records")
    else:  # pandas would make a date of "2020-01-01", and 1.0 of 1
        with opened(path, "rt", **how) as lines:
            if kind == ".json" and (whole := _array(lines)) is not None:
                yield from whole
            else:
                lines.seek(0)
                yield from lines


def _array(file) -> list | None:
    """The rows of a JSON file: an array, or an object's only list; None of JSON lines."""
    with suppress(json.JSONDecodeError):
        whole = json.load(file)
        if isinstance(whole, dict):
            whole = next((whole[k] for k in ("data", "rows", "examples") if k in whole), [whole])
        return whole
    return None


def columns_of(raw) -> dict:
    """A row as columns, cells of arrays as lists and NaN as None."""
    raw = json.loads(raw.strip() or "{}") if isinstance(raw, str) else raw
    if isinstance(raw, list | tuple) and raw and _turns(raw) is not None:
        raw = {"messages": raw}
    elif isinstance(raw, list | tuple) and len(raw) == 2:
        raw = dict(zip(("question", "answer"), raw, strict=True))
    if not isinstance(raw, Mapping):
        raise ValueError(f"{str(raw)[:40]!r} is neither columns nor a (question, answer) pair")
    cells = {str(c): v.tolist() if hasattr(v, "tolist") else v for c, v in raw.items()}
    return {c: None if isinstance(v, float) and v != v else v for c, v in cells.items()}


def roles(has: Sequence[str], named: Mapping[str, str], answers: bool) -> dict:
    """What a column is for -> the one of `has` that is, or None; `named` goes first. Of "context"
    and "listed", the options of a column each, a list; "grade": whether an answer is a good one."""
    if lost := [f"{k}={c}" for k, c in named.items() if k not in COLUMNS or c not in has]:
        raise ValueError(f"{lost[0]}: name one of {[*COLUMNS]}, and a column of {[*has]}")
    lower = {c.lower(): c for c in reversed(has)}
    found = {
        role: next((lower[c] for c in known if c in lower), None) for role, known in COLUMNS.items()
    }
    if kinds := {k for k in named if k.startswith("answer")}:
        found |= {role: None for role in COLUMNS if role.startswith("answer") and role not in kinds}
    found |= named
    found["context"] = [lower[c] for c in COLUMNS["context"] if c in lower]
    if "context" in named:
        found["context"] = [named["context"]]
    series = {}
    for match in filter(None, map(OPTION.fullmatch, lower)):
        series.setdefault(match[1], []).append(lower[match[0]])
    listed = max(series.values(), key=len, default=[])
    found["listed"] = listed if len(listed) > 1 and not found["options"] else []
    if not found["question"] and not found["messages"] and "chosen" in lower:
        found |= {"messages": lower["chosen"], "solution": None}  # of preferences, whole chats
    choice, found["grade"] = found["options"] or found["listed"], None
    if not choice and "answer" not in named and (found["answer"] or "").lower() in GRADES:
        if found["solution"] or found["messages"]:
            found |= {"grade": found["answer"], "answer": None}
    answered = any(found[k] for k in ("solution", *(k for k in COLUMNS if k.startswith("answer"))))
    answered = answered or found["options"] == lower.get("mc1_targets", "")
    if found["messages"]:
        if "question" not in named and ("messages" in named or not answered):
            found["question"] = None  # a `prompt` beside chat turns, which have the answers
    elif not found["question"] or (answers and not answered):
        role = "solution" if found["question"] else "question"
        used = [found["question"], *found["context"]]
        free = [c for c in has if c not in used]
        mend = f"name one of {free}, {role}=its_name" if free else "there is no other column"
        raise ValueError(f"no column for the {role}: {mend}")
    return found


def unused(has: Sequence[str], column: Mapping) -> list[str]:
    """The columns of a source that nothing is read of."""
    used = {c for c in column.values() if isinstance(c, str)} | {
        *column["context"],
        *column["listed"],
    }
    used |= (
        {c for c in has if c.lower() == "input"}
        if (column["question"] or "").lower() == "instruction"
        else set()
    )
    used -= {column["question"] and None}
    return [c for c in has if c not in used]


def example(row: Mapping, column: Mapping, base: int | None, domain: str, lost: Counter):
    """A row as an Example (the one place for that), its columns as `roles` gave them and indices of
    options from `base`; None where it can't be one, for a reason counted in `lost`. Raises
    ValueError for what can't be read."""
    before = [
        _text(row.get(c), lost) if c.lower() != "history" else _history(row.get(c))
        for c in column["context"]
    ]
    if column["grade"] and str(row.get(column["grade"])).lower() in ("false", "0", "0.0"):
        lost["rows whose answer is marked as bad"] += 1
        return None
    if column["messages"] and not column["question"]:
        if (turns := _turns(row.get(column["messages"]) or ())) is None:
            raise ValueError('the chat is no list of turns like {"role": "user", "content": "…"}')
        question, solution = _question_and_answer(turns, lost)
    else:
        question = _said(row.get(column["question"]), "User", lost)
        solution = _said(row.get(column["solution"]), "Assistant", lost)
        if column["question"].lower() == "instruction":  # Alpaca has half of it in `input`
            question = f"{question}\n{_text(row.get('input', row.get('Input')), lost)}".strip()
    if not question:
        lost["rows without a question"] += 1
        return None
    question = "\n".join(filter(None, [*before, question]))
    given = next(
        (k for k in ("answer_index", "answer_number", "answer_text", "answer") if column[k]), None
    )
    cell = row.get(column[given]) if given else None
    labels, options, gold = _options(row, column, question, cell)
    answer = _said(cell, "Assistant", lost)
    if options and (answer or gold is not None):
        gold = _gold(labels, options, answer, base) if gold is None else gold
        answer = options[gold]
        if options.count(answer) > 1:
            lost["rows whose gold option is there twice"] += 1
            return None
        solution = solution or f"The answer is ({LETTERS[gold]})."
    solution, answer = solution or answer, answer or ("" if options else solution)
    said = "\n".join((question, solution, *options))
    name = hashlib.sha256(said.encode()).hexdigest()[:16]  # half of a character is a ValueError
    return Example(question, solution, answer, domain, name, options=options, instruction="")


def _text(cell, lost: Counter) -> str:
    """A cell as text: of a list of texts the first, of parts of a message those of text."""
    if isinstance(cell, Mapping) and isinstance(cell.get("text"), list | str):  # SQuAD's answers
        cell = cell["text"]
    if (
        isinstance(cell, list)
        and cell
        and all(isinstance(x, Mapping) and "type" in x for x in cell)
    ):
        if parts := sum("text" not in part for part in cell):
            lost["parts of messages that are no text"] += parts
        return "".join(str(part.get("text") or "") for part in cell).strip()
    if isinstance(cell, list) and all(isinstance(x, str | int | float) for x in cell):
        lost["answers or texts behind the first of a list"] += max(len(cell) - 1, 0)
        cell = cell[0] if cell else ""
    if isinstance(cell, str | int | float | None):
        return "" if cell is None else str(cell).strip()
    raise ValueError(f"{str(cell)[:40]!r} is a {type(cell).__name__}: make it text")


def _said(cell, who: str, lost: Counter) -> str:
    """A cell as text; of chat turns all that leads to an answer, or the last answer."""
    if (turns := _turns(cell)) is None:
        return _text(cell, lost)
    return _question_and_answer(turns, lost)[who == "Assistant"]


def _turns(cell) -> list[dict] | None:
    """Chat turns, given as a list, its JSON or "Human: …", as {"who": of SPEAKERS, "text", "learn",
    "thought"}; None of anything else."""
    if isinstance(cell, str) and re.match(r"\s*Human: ", cell):
        parts = re.split(r"(?:^|\n\n)\s*(Human|Assistant): ", cell)[1:]
        cell = [{"from": a, "value": b} for a, b in zip(parts[::2], parts[1::2], strict=True)]
    elif isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    if not isinstance(cell, list | tuple) or not cell:
        return None
    if not all(isinstance(turn, Mapping) and {"role", "from"} & turn.keys() for turn in cell):
        return None
    turns = []
    for turn in cell:  # where a file holds both kinds, each turn has the other's keys with null
        text = turn.get("value") if turn.get("content") is None else turn["content"]
        calls, lost = turn.get("tool_calls"), Counter()
        text = "\n".join(filter(None, [_text(text, lost), json.dumps(calls) if calls else ""]))
        who = str(turn.get("role") or turn.get("from")).lower()
        learn = turn.get("weight") not in (0, 0.0) and turn.get("train", True) is not False
        thought = turn.get("reasoning_content") or turn.get("thinking")
        own = {"who": SPEAKER.get(who, who.capitalize()), "text": text, "learn": learn}
        turns.append(own | {"thought": bool(thought), "lost": lost})
    return turns


def _question_and_answer(turns: Sequence[Mapping], lost: Counter) -> tuple[str, str]:
    """(all that stands before the last answer that is learnt, that answer): of one user's turn its
    text, with a system's before it; of several turns each behind who says it."""
    turns = [turn for turn in turns if turn["text"]]
    for turn in turns:
        lost.update(turn["lost"])
        lost["thoughts beside the answers"] += turn["thought"]
    answers = [i for i, t in enumerate(turns) if t["who"] == "Assistant" and t["learn"]]
    last = answers[-1] if answers else len(turns)
    system = [t["text"] for t in turns[:last] if t["who"] == "System"]
    rest = [t for t in turns[:last] if t["who"] != "System"]
    said = [t["text"] if len(rest) == 1 else f"{t['who']}: {t['text']}" for t in rest]
    return "\n\n".join([*system, *said] if said else []), turns[last]["text"] if answers else ""


def _history(cell) -> str:
    """Earlier (question, answer) pairs."""
    if not isinstance(cell, list) or not all(isinstance(p, list) and len(p) == 2 for p in cell):
        return _text(cell, Counter()) if isinstance(cell, str) else ""
    return "\n\n".join(f"User: {q}\n\nAssistant: {a}" for q, a in cell)


def _options(row: Mapping, column: Mapping, question: str, answer):
    """(labels, texts, the gold one's index if the options say it) of a list, its JSON or print,
    {"A": text}, {"text": …, "label": …}, a list of such, or columns; none without options."""
    cell, gold = row.get(column["options"]) if column["options"] else None, None
    if isinstance(cell, str):
        cell = _printed(cell)
    if column["listed"]:
        labels = [OPTION.fullmatch(c.lower())[2].upper() for c in column["listed"]]
        cell = [row.get(c) for c in column["listed"]]
        if "distractor" in column["listed"][0].lower():  # the answer is none of the columns
            cell = [_text(answer, Counter()), *cell]
            random.Random(question).shuffle(cell)
            labels = LETTERS
    elif isinstance(cell, Mapping) and isinstance(cell.get("choices"), list):  # TruthfulQA's
        labels, gold = LETTERS, [i for i, right in enumerate(cell["labels"]) if right]
        cell = cell["choices"]
    elif isinstance(cell, Mapping) and "text" in cell:
        labels, cell = cell.get("label") or LETTERS, cell["text"]
    elif isinstance(cell, Mapping):
        labels, cell = list(cell), list(cell.values())
    elif isinstance(cell, list) and cell and all(isinstance(x, Mapping) for x in cell):
        marks = [next((x[k] for k in ("label", "key", "id") if k in x), None) for x in cell]
        labels = marks if None not in marks else LETTERS
        right = [
            i
            for i, x in enumerate(cell)
            if any(x.get(k) is True for k in ("correct", "is_correct"))
        ]
        gold = right or None
        cell = [x.get("text", x.get("content")) for x in cell]
    else:
        labels = LETTERS
    if cell is None or cell == "":
        return (), (), None
    if not isinstance(cell, list | tuple) or not isinstance(labels, list | tuple | str):
        raise ValueError(f'the options are not a list like ["one", "two"]: {str(cell)[:40]!r}')
    texts = list(cell)
    while texts and texts[-1] in (None, ""):  # columns of the rows with most options
        texts.pop()
    labels = [str(label).upper() for label in labels][: len(texts)]
    if not texts or (len(texts) < 2 and column["listed"]):
        return (), (), None
    usable = all(isinstance(t, str | int | float) and str(t).strip() for t in texts)
    if not usable or len(set(labels)) < len(texts):
        raise ValueError(f"options {str(texts)[:50]}: up to 26 texts, none empty, no label twice")
    if gold is not None and len(gold) != 1:
        raise ValueError(f"{len(gold)} of the options {str(texts)[:50]} are marked as right")
    return labels, tuple(str(t).strip() for t in texts), gold and gold[0]


def _printed(cell: str):
    """Options as they were printed into a cell: JSON, a Python or numpy list, or lines "A. …"."""
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            if isinstance(found := read(cell), list | tuple | dict):
                return list(found) if isinstance(found, tuple) else found
    quoted = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\""""
    if re.fullmatch(rf"\[\s*(?:{quoted}\s*)+\]", cell.strip()):
        return [a or b for a, b in re.findall(quoted, cell)]
    lines = re.split(r"^\s*\(?([A-J])[.):]\s+", cell, flags=re.MULTILINE)
    if len(lines) > 3 and not lines[0].strip():
        return dict(zip(lines[1::2], map(str.strip, lines[2::2]), strict=True))
    return cell


def _gold(labels: Sequence[str], options: Sequence[str], answer: str, base: int | None) -> int:
    """Which option an answer names: by its index from `base`, its letter or label, or its text."""
    if base is not None and answer.removesuffix(".0").isdecimal():
        found = {int(float(answer)) - base} & {*range(len(options))}
    else:
        found = {i for i, text in enumerate(options) if text == answer}
        if len(found) > 1:
            return found.pop()  # there twice
        match = LETTER.fullmatch(answer)
        mark = match[1].upper() if match else answer.strip("()").upper()
        found |= {i for i, label in enumerate(labels) if label == mark}
    if len(found) != 1:  # of two, one by its letter and one by text
        raise ValueError(
            f"answer {answer!r} names {len(found)} of the {len(options)} options: index it"
        )
    return found.pop()


def base_of(rows: Mapping[int, Mapping], column: Mapping) -> int | None:
    """From what number the answers of multiple choice count, or None where they are letters, labels
    or texts. Raises ValueError that asks where a column of numbers can be read in two ways."""
    if column["answer_index"] or column["answer_number"] or column["answer_text"]:
        return 0 if column["answer_index"] else 1 if column["answer_number"] else None
    name, numbers, sizes, texts, labelled = column["answer"], [], [], 0, 0
    for row in rows.values() if name and (column["options"] or column["listed"]) else ():
        answer = _text(row.get(name), Counter()).removesuffix(".0")
        labels, options, gold = _options(row, column, "", row.get(name))
        if not options or not answer:
            continue
        if not answer.isdecimal() or gold is not None:
            return None
        numbers.append(int(answer))
        sizes.append(len(options))
        texts += answer in options
        labelled += answer in labels
    if not numbers or labelled == len(numbers):
        return None
    out = [n >= size for n, size in zip(numbers, sizes, strict=True)]
    one = [n == size for n, size in zip(numbers, sizes, strict=True)]
    if texts == len(numbers) and sum(out) > sum(one):
        return None
    says = "answer_index (from 0), answer_number (from 1) or answer_text"
    if texts:
        raise ValueError(f"answers in {name!r} are options' texts and numbers too: name it {says}")
    if any(one) or (0 not in numbers and len(numbers) > 9):
        raise ValueError(
            f"answers in {name!r} are {min(numbers)} to {max(numbers)}: name it {says}"
        )
    return 0


def read(source, *, domain, columns=None, answers=False, by=None, note=print) -> list[Example]:
    """At most LIMIT Examples of a corpus, files (FILES, folders of them), a `datasets.Dataset`, or a
    list of (question, answer) pairs, dicts or chats: a seeded sample in their order, each once.

    Columns are recognised by name (COLUMNS), or named, like {"question": "ask"}; one named `by`
    holds the domain. A row without an answer has no `solution`, or with `answers` is left out.
    Raises ValueError that names the row."""
    where = name = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    rows, found, kept, total, rng, lost = {}, {}, {}, 0, random.Random(0), Counter()
    if isinstance(source, str) and name in corpora.TABLE:
        every = corpora.load(name)
        total, rows = len(every), dict(enumerate(every[:LIMIT]))
        found = {n: replace(e, domain=domain) for n, e in rows.items()}
    else:
        try:
            for total, row in enumerate(rows_of(source), 1):
                slot = total - 1 if total <= LIMIT else rng.randrange(total)  # a reservoir sample
                if slot < LIMIT:
                    kept[slot] = total, row.as_py() if isinstance(row, pa.Scalar) else row
            for n, raw in sorted(kept.values(), key=lambda kept: kept[0]):
                where = f"{name}, row {n}"
                rows |= {n: row} if (row := columns_of(raw)) else {}
            where, has = name, list(dict.fromkeys(chain(*rows.values())))
            column = roles(has, columns or {}, answers)
            base = base_of(_whole(rows), column)
            for n, row in rows.items():
                where = f"{name}, row {n}"
                own = domain if by is None else str(row.get(by) or "").strip()
                if not (e := example(row, column, base, own, lost)):
                    continue
                at = (own, e.question, e.options, e.solution if answers else "")
                if getattr(found.get(at), "solution", ""):
                    lost["rows that are there twice"] += 1
                else:  # the first with an answer
                    lost["rows that are there twice"] += at in found
                    found[at] = e
            if left := [c for c in unused(has, column) if c != by]:
                note(f"{name}: columns {', '.join(left)} are not read.")
        except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
            raise ValueError(f"{where}: {str(error).splitlines()[0]}") from None
    used = [e for e in found.values() if e.solution or not answers]
    if not used:
        raise ValueError(f"{name}: no row has {'an answer' if found else 'a question'}")
    if total > LIMIT:
        note(f"{name}: {LIMIT} of its {total} rows are used, a sample.")
    lost["training rows without an answer"] = len(found) - len(used)
    if said := [f"{count} {what}" for what, count in lost.items() if count]:
        note(f"{name}: left out: {', '.join(said)}.")
    return used


def _whole(rows: Mapping[int, dict]) -> Mapping[int, dict]:
    """The rows (in place) with whole numbers as such where a gap in a column made 72 a 72.0."""
    for name in {name for row in rows.values() for name in row}:
        cells = [row.get(name) for row in rows.values()]
        gaps = any(cell is None for cell in cells)
        if gaps and all(
            cell is None or (isinstance(cell, float) and cell.is_integer()) for cell in cells
        ):
            for row in rows.values():
                row[name] = None if row.get(name) is None else int(row[name])
    return rows


def read_domains(source, columns=None, note=print) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all their domains), files, and
    "file:column", whose column holds the domain."""
    domains = []
    for name in [source] if isinstance(source, str | Path) else source:
        own = source[name] if isinstance(source, Mapping) else None
        if own is None and name in corpora.TABLE:
            domains += by_domain(corpora.load(name)).items()
        elif own is None and not Path(name).exists() and ":" in str(name):
            path, _, by = str(name).rpartition(":")
            found = read(path, domain="", by=by, columns=columns, note=note)
            domains += by_domain(found).items()
        else:
            domain = Path(name).stem if own is None else str(name)
            own = read(name if own is None else own, domain=domain, columns=columns, note=note)
            domains.append((domain, own))
    names = [domain for domain, _ in domains]
    if twice := [d for d in names if names.count(d) > 1 or not d.strip()]:
        raise ValueError(f"domain {twice[0]!r} is there twice or has no name")
    return dict(domains)


def read_evaluation(domains, demonstrations, columns, training: Sequence[Example], note):
    """(domain -> questions, domain -> worked examples), none of which the training set asks. The
    latter: of `demonstrations`; if None of the domains, or their corpora's own; or "none"."""
    asked = worked = read_domains(domains, columns, note)
    if demonstrations is not None:
        worked = {} if demonstrations == "none" else read_domains(demonstrations, columns, note)
    elif not isinstance(domains, Mapping):
        named = [domains] if isinstance(domains, str | Path) else domains
        shown = [corpora.entry(n).demonstrations for n in named if n in corpora.TABLE]
        worked = asked | read_domains(dict.fromkeys(filter(None, shown)).keys())
    same = {key(e) for e in training}
    bare = {key(replace(e, options=())) for e in training}

    def known(e: Example) -> bool:  # options tell apart two that both have some
        return key(e) in same or key(replace(e, options=())) in (same if e.options else bare)

    if left := {key(e) for e in chain(*asked.values(), *worked.values()) if known(e)}:
        note(f"{len(left)} questions of the domains are in the training set too and were left out.")
    asked = {d: [e for e in of if not known(e)] for d, of in asked.items()}
    shown = {d: worked.get(d, ()) for d in asked if worked}
    worked = {d: [e for e in of if e.solution and not known(e)] for d, of in shown.items()}
    if bare := [d for d in worked if not worked[d]]:
        raise ValueError(f"domain {bare[0]!r} has no worked examples: give some, or 'none'")
    return asked, worked


def drawn(examples: Sequence[Example], most: int, seed: int = 0) -> list[Example]:
    """At most so many of the examples, drawn by the seed."""
    return random.Random(seed).sample(list(examples), min(most, len(examples)))


def key(example: Example) -> str:
    """What tells a question from others, whatever its case and spacing, and its options."""
    return " ".join("\n".join((example.question, *example.options)).split()).casefold()
