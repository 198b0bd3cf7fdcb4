"""People's own data: a file, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import ast
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from string import ascii_uppercase as LETTERS

import pyarrow as pa
import yaml

from sts_utils import corpora, store
from sts_utils.examples import Example, by_domain
from sts_utils.prediction import files

#: What a column is for -> the names it is recognised by; who speaks in a chat -> their names.
COLUMNS = yaml.safe_load((store.DATA / "columns.yaml").read_text(encoding="utf-8"))
SPEAKERS = {
    name: who for who in [c for c in COLUMNS if c[0].isupper()] for name in COLUMNS.pop(who)
}
GRADES = COLUMNS.pop("grade")
ANSWERS = ("answer_index", "answer_number", "answer_text", "answer")
#: Columns that are options, one each: their common beginning, and the letter or number of each.
OPTION = re.compile(r"(option|choice|ending|op|sol|distractor|)[ _]?([a-j]|\d)")
#: An answer that is a letter, and perhaps the option's text behind it; strings in a printed list.
LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.):]\s*(\S.*)?)?", re.DOTALL)
QUOTED = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\""""
#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000


def columns_of(raw) -> dict:
    """A row as columns, cells of arrays as lists and NaN as None."""
    raw = json.loads(raw.strip() or "{}") if isinstance(raw, str) else raw
    if isinstance(raw, list | tuple) and raw and all(map(_is_turn, raw)):
        raw = {"messages": raw}
    elif isinstance(raw, list | tuple) and len(raw) == 2:
        raw = dict(zip(("question", "answer"), raw, strict=True))
    if not isinstance(raw, Mapping):
        raise ValueError(f"{str(raw)[:40]!r} is neither columns nor a (question, answer) pair")
    cells = {str(c): v.tolist() if hasattr(v, "tolist") else v for c, v in raw.items()}
    return {c: None if isinstance(v, float) and v != v else v for c, v in cells.items()}


def roles(has: Sequence[str], named: Mapping[str, str], answers: bool) -> dict:
    """What a column is for -> the one of `has` that is, or None; `named` goes first. Lists of
    columns: "context", and "listed", an option each; "grade": whether an answer is a good one."""
    if lost := [f"{k}={c}" for k, c in named.items() if k not in COLUMNS or c not in has]:
        raise ValueError(f"{lost[0]}: name one of {[*COLUMNS]}, and a column of {[*has]}")
    lower = {c.lower(): c for c in reversed(has)}
    found = {k: next((lower[c] for c in names if c in lower), None) for k, names in COLUMNS.items()}
    if {*ANSWERS} & {*named}:
        found |= dict.fromkeys(ANSWERS)
    found |= {
        "context": [lower[c] for c in COLUMNS["context"] if c in lower],
        "grade": None,
    } | named
    series = {}
    for match in filter(None, map(OPTION.fullmatch, sorted(lower))):
        series.setdefault(match[1], []).append(lower[match[0]])
    listed = max(series.values(), key=len, default=[])
    found["listed"] = listed if len(listed) > 1 and not found["options"] else []
    if not found["question"] and not found["messages"] and "chosen" in lower:
        found |= {"messages": lower["chosen"], "solution": None}  # of preferences, whole chats
    choice, beside = found["options"] or found["listed"], found["solution"] or found["messages"]
    if (
        beside
        and not choice
        and "answer" not in named
        and (found["answer"] or "").lower() in GRADES
    ):
        found |= {"grade": found["answer"], "answer": None}
    says = [found[k] for k in ("solution", *ANSWERS)] + [
        (found["options"] or "").lower() == "mc1_targets"
    ]
    if found["messages"]:
        if "question" not in named and ("messages" in named or not any(says)):
            found["question"] = None  # a `prompt` beside chat turns, which have the answers
    elif not found["question"] or (answers and not any(says)):
        role = "solution" if found["question"] else "question"
        free = [c for c in has if c not in (found["question"], *found["context"])]
        mend = f"name one of {free}, {role}=its_name"
        if len(has) < 2 or not free:
            mend = "it needs a question and an answer, as prompt/completion or messages"
        raise ValueError(f"no column for the {role}; it has {[*has]}: {mend}")
    return found


def example(row: Mapping, column: Mapping, base: int | None, domain: str, lost: Counter):
    """A row as an Example (the one place for that), its columns as `roles` gave them, and answers
    that are numbers counted from `base`; None where it can't be one, for a reason counted in
    `lost`. Raises ValueError for what can't be read."""
    if column["grade"] and str(row.get(column["grade"])).lower() in ("false", "0", "0.0"):
        lost["rows whose answer is marked as bad"] += 1
        return None
    told = [(row.get(c), _turns(row.get(c), lost)) for c in column["context"]]
    earlier = [(who, text, False) for _, turns in told for who, text, _ in turns or ()]
    before = [_text(cell, lost) for cell, turns in told if turns is None]
    if column["messages"] and not column["question"]:
        if (turns := _turns(row.get(column["messages"]), lost)) is None:
            raise ValueError('the chat is no list of turns like {"role": "user", "content": "…"}')
        question, solution = _asked_and_answered(turns)
    else:
        question = _said(row.get(column["question"]), lost)
        solution = _said(row.get(column["solution"]), lost, answer=True)
        if column["question"].lower() == "instruction":  # Alpaca has half of it in `input`
            question = f"{question}\n{_said(row.get('input'), lost)}".strip()
    if not question:
        lost["rows without a question"] += 1
        return None
    if earlier:
        question = _asked_and_answered([*earlier, ("User", question, False)])[0]
    question = "\n".join(filter(None, [*before, question]))
    answer = _said(
        row.get(next((column[k] for k in ANSWERS if column[k]), None)), lost, answer=True
    )
    labels, options, gold = _options(row, column, question, answer)
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
    """A cell as text: of a list of texts the first, of the parts of a message those of text."""
    if isinstance(cell, Mapping) and isinstance(cell.get("text"), list | str):  # SQuAD's answers
        cell = cell["text"]
    if (
        isinstance(cell, list)
        and cell
        and all(isinstance(x, Mapping) and "type" in x for x in cell)
    ):
        lost["parts of messages that are no text"] += sum("text" not in part for part in cell)
        return "".join(str(part.get("text") or "") for part in cell).strip()
    if isinstance(cell, list) and all(isinstance(x, str | int | float) for x in cell):
        lost["texts behind the first of a list"] += max(len(cell) - 1, 0)
        cell = cell[0] if cell else ""
    if isinstance(cell, str | int | float | None):
        return "" if cell is None else str(cell).strip()
    raise ValueError(f"{str(cell)[:40]!r} is a {type(cell).__name__}: make it text")


def _said(cell, lost: Counter, answer: bool = False) -> str:
    """A cell as text; of chat turns all that leads to an answer, or the last answer."""
    if (turns := _turns(cell, lost)) is None:
        return _text(cell, lost)
    return _asked_and_answered(turns)[answer]


def _is_turn(turn) -> bool:
    return isinstance(turn, Mapping) and bool({"role", "from"} & turn.keys())


def _turns(cell, lost: Counter) -> list[tuple[str, str, bool]] | None:
    """(who, text, whether it is learnt) of chat turns, given as a list, its JSON, pairs or "Human:
    …"; None of anything else."""
    if isinstance(cell, str) and re.match(r"\s*Human: ", cell):
        parts = re.split(r"(?:^|\n\n)\s*(Human|Assistant): ", cell)[1:]
        cell = [{"from": a, "value": b} for a, b in zip(parts[::2], parts[1::2], strict=True)]
    elif isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    if not isinstance(cell, list | tuple) or not cell:
        return None
    if all(isinstance(pair, list) and len(pair) == 2 for pair in cell):  # a history
        cell = [
            {"from": ("user", "gpt")[i], "value": x} for pair in cell for i, x in enumerate(pair)
        ]
    if not all(map(_is_turn, cell)):
        return None
    turns = []
    for turn in cell:  # where a file holds both kinds, each turn has the other's keys with null
        text = _text(turn.get("value") if turn.get("content") is None else turn["content"], lost)
        calls = json.dumps(turn["tool_calls"]) if turn.get("tool_calls") else ""
        lost["thoughts beside answers"] += bool(
            turn.get("reasoning_content") or turn.get("thinking")
        )
        who = str(turn.get("role") or turn.get("from")).lower()
        learn = turn.get("weight") not in (0, 0.0) and turn.get("train") is not False
        if text or calls:
            said = "\n".join(filter(None, [text, calls]))
            turns.append((SPEAKERS.get(who, who.capitalize()), said, learn))
    return turns


def _asked_and_answered(turns: Sequence[tuple[str, str, bool]]) -> tuple[str, str]:
    """(all that stands before the last answer that is learnt, that answer): of one user's turn its
    text, with a system's before it; of several turns each behind who says it."""
    answers = [i for i, (who, _, learn) in enumerate(turns) if who == "Assistant" and learn]
    before = turns[: answers[-1]] if answers else turns
    system = [text for who, text, _ in before if who == "System"]
    rest = [(who, text) for who, text, _ in before if who != "System"]
    said = [text if len(rest) == 1 else f"{who}: {text}" for who, text in rest]
    return "\n\n".join([*system, *said] if said else []), turns[answers[-1]][1] if answers else ""


def _options(row: Mapping, column: Mapping, question: str, answer: str):
    """(labels, texts, the gold one's index if the options say it) of a list, its JSON or print,
    {"A": text}, {"text": …, "label": …}, a list of such, or columns; none without options."""
    cell, labels, gold = row.get(column["options"]), LETTERS, None
    cell = _printed(cell) if isinstance(cell, str) else cell
    if column["listed"]:
        cell = [row.get(c) for c in column["listed"]]
        labels = [OPTION.fullmatch(c.lower())[2] for c in column["listed"]]
        if "distractor" in column["listed"][0].lower():  # the answer is none of the columns
            cell, labels = [answer, *cell], LETTERS
            random.Random(question).shuffle(cell)
    elif isinstance(cell, Mapping) and "choices" in cell:  # TruthfulQA's
        gold, cell = [i for i, right in enumerate(cell.get("labels", ())) if right], cell["choices"]
    elif isinstance(cell, Mapping):
        whole = "text" in cell  # ARC's, or {"A": text}
        labels = (cell.get("label") or LETTERS) if whole else list(cell)
        cell = cell["text"] if whole else list(cell.values())
    elif isinstance(cell, list) and cell and all(isinstance(x, Mapping) for x in cell):
        marks = [x.get("label", x.get("key", x.get("id"))) for x in cell]
        labels = LETTERS if None in marks else marks
        right = [i for i, x in enumerate(cell) if True in (x.get("correct"), x.get("is_correct"))]
        gold, cell = right or None, [x.get("text", x.get("content")) for x in cell]
    if cell in (None, "", [], {}):
        return (), (), None
    if not isinstance(cell, list | tuple) or not isinstance(labels, list | tuple | str):
        raise ValueError(f'the options are not a list like ["one", "two"]: {str(cell)[:40]!r}')
    texts = list(cell)
    while texts and texts[-1] in (None, ""):  # columns of the rows with most options
        texts.pop()
    if not texts or (len(texts) < 2 and column["listed"]):
        return (), (), None
    labels = [str(label).upper() for label in labels][: len(texts)]
    usable = all(isinstance(t, str | int | float) and str(t).strip() for t in texts)
    if not usable or len(set(labels)) < len(texts):
        raise ValueError(f"options {str(texts)[:50]}: up to 26 texts, none empty, no label twice")
    if gold is not None and len(gold) != 1:
        raise ValueError(f"{len(gold)} of the options {str(texts)[:50]} are marked as right")
    return labels, tuple(str(t).strip() for t in texts), gold and gold[0]


def _printed(cell: str):
    """Options as they were printed into a cell: JSON, a numpy or Python list, or lines "A. …"."""
    if re.fullmatch(rf"\[\s*(?:(?:{QUOTED})\s*){{2,}}\]", cell.strip()):  # no commas
        return [a or b for a, b in re.findall(QUOTED, cell)]
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            if isinstance(found := read(cell), list | tuple | dict):
                return list(found) if isinstance(found, tuple) else found
    lines = re.split(r"^\s*\(?([A-J])[.):]\s+", cell, flags=re.MULTILINE)
    if len(lines) > 3 and not lines[0].strip():
        return dict(zip(lines[1::2], map(str.strip, lines[2::2]), strict=True))
    return cell


def _gold(labels: Sequence[str], options: Sequence[str], answer: str, base: int | None) -> int:
    """Which option an answer names: by its number from `base`, its letter or label, or its text."""
    if base is not None and answer.isdecimal():
        found = {int(answer) - base} & {*range(len(options))}
    else:
        match = LETTER.fullmatch(answer)
        mark = match[1].upper() if match else answer.strip("()").upper()
        found = {options.index(answer)} if answer in options else set()
        found |= {i for i, label in enumerate(labels) if label == mark}
    if len(found) != 1:  # of two, one by its letter and one by text
        said = f"answer {answer!r} names {len(found)} of the {len(options)} options"
        raise ValueError(f"{said}: index it, as a column answer_index")
    return found.pop()


def base_of(rows: Mapping[int, Mapping], column: Mapping) -> int | None:
    """From what number the answers of multiple choice count; None where they are letters, labels or
    texts. Raises ValueError that asks where a column of numbers can be read in two ways."""
    name = next((k for k in ANSWERS if column[k]), None)
    if name != "answer" or not (column["options"] or column["listed"]):
        return {"answer_index": 0, "answer_number": 1}.get(name)
    found = []
    for row in rows.values():
        with suppress(ValueError):  # told with its row when it is read
            answer = _said(row.get(column["answer"]), Counter(), answer=True)
            labels, options, gold = _options(row, column, "", answer)
            if options and answer.isdecimal() and gold is None and answer not in labels:
                found.append((int(answer), len(options), answer in options))
    numbers, sizes, texts = zip(*found, strict=True) if found else ((), (), ())
    beyond = any(n > size for n, size in zip(numbers, sizes, strict=True))
    if not numbers or (beyond and all(texts)):
        return None
    usual = column["answer"].lower() in (*GRADES, "cop")  # from 0, wherever they are used
    one = any(map(int.__eq__, numbers, sizes)) or (
        0 not in numbers and len(numbers) > 9 and not usual
    )
    if one or any(texts):
        said = f"the numbers in {column['answer']!r} can be read in two ways"
        raise ValueError(
            f"{said}: name it answer_index (from 0), answer_number (from 1) or answer_text"
        )
    return 0


def read(source, *, domain, columns=None, answers=False, by=None, note=print) -> list[Example]:
    """At most LIMIT Examples of a corpus, files (files.KINDS), a `datasets.Dataset`, or a list of
    (question, answer) pairs, dicts or chats: a seeded sample in their order, each once.

    Columns are recognised by name (COLUMNS), or named, like {"question": "ask"}; the one called
    `by` holds the domain. A row without an answer has no `solution`, or with `answers` is left out.
    Raises ValueError that names the row."""
    where = name = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    rows, found, kept, total, rng, lost = {}, {}, {}, 0, random.Random(0), Counter()
    if name in corpora.TABLE:
        every = corpora.load(name)
        total, rows = len(every), dict(enumerate(every[:LIMIT]))
        found = {n: replace(e, domain=domain) for n, e in rows.items()}
    else:
        try:
            for total, row in enumerate(files.rows(source), 1):
                slot = total - 1 if total <= LIMIT else rng.randrange(total)  # a reservoir sample
                if slot < LIMIT:
                    kept[slot] = total, row.as_py() if isinstance(row, pa.Scalar) else row
            for n, raw in sorted(kept.values(), key=lambda kept: kept[0]):
                where = f"{name}, row {n}"
                rows |= {n: row} if (row := columns_of(raw)) else {}
            where, has = name, list(dict.fromkeys(chain(*rows.values())))
            column = roles(has, columns or {}, answers)
            base = base_of(_whole(rows, has), column)
            for n, row in rows.items():
                where, own = f"{name}, row {n}", domain if by is None else str(row.get(by, ""))
                if e := example(row, column, base, own, lost):
                    at = own, e.question, e.options, answers and e.solution
                    lost["rows that are there twice"] += at in found
                    if not getattr(found.get(at), "solution", ""):  # the first with an answer
                        found[at] = e
        except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
            raise ValueError(f"{where}: {str(error).splitlines()[0]}") from None
        used = {by, *chain(*(c if isinstance(c, list) else [c] for c in column.values()))}
        used |= {"input"} if (column["question"] or "").lower() == "instruction" else set()
        if left := [c for c in has if c not in used]:
            note(f"{name}: not read: column {', '.join(left)}.")
    used = [e for e in found.values() if e.solution or not answers]
    if not used:
        raise ValueError(f"{name}: no row has {'an answer' if found else 'a question'}")
    if total > LIMIT:
        note(f"{name}: {LIMIT} of its {total} rows are used, a sample.")
    lost["training rows without an answer"] = len(found) - len(used)
    if said := [f"{count} {what}" for what, count in lost.items() if count]:
        note(f"{name}: left out: {', '.join(said)}.")
    return used


def _whole(rows: Mapping[int, dict], has: Sequence[str]) -> Mapping[int, dict]:
    """The rows (in place), whole numbers as such where a gap in a column made 72 a 72.0."""
    for name in has:
        cells = [row.get(name) for row in rows.values()]
        floats = [cell for cell in cells if isinstance(cell, float) and cell.is_integer()]
        if None in cells and floats and len(floats) + cells.count(None) == len(cells):
            for row in rows.values():
                row[name] = None if row.get(name) is None else int(row[name])
    return rows


def read_domains(source, columns=None, note=print) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all their domains), files, and
    "file:column", whose column holds the domain."""
    domains = []
    for name in [source] if isinstance(source, str | Path) else source:
        own = source[name] if isinstance(source, Mapping) else None
        path, _, by = str(name).rpartition(":")
        if own is None and name in corpora.TABLE:
            domains += by_domain(corpora.load(name)).items()
        elif own is None and files.kind(path) and not Path(name).exists():
            domains += by_domain(read(path, domain="", by=by, columns=columns, note=note)).items()
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
