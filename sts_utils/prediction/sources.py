"""People's own data: a file, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import ast
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
from sts_utils.corpora.packaged import digest
from sts_utils.prediction import files
from sts_utils.prompts import Example, by_domain, chat

#: What a column is for -> the names it is recognised by. A name in a chat -> who speaks.
COLUMNS = yaml.safe_load((store.DATA / "columns.yaml").read_text(encoding="utf-8"))
GRADES, SPEAKERS = COLUMNS.pop("grade"), COLUMNS.pop("speakers")
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
    """What a column is for -> the one of `has` that is, or None; `named` goes first. "gold": the
    first of ANSWERS; "grade": whether an answer is a good one; "context" and "listed" (options):
    lists of columns. Raises ValueError without a question, or with `answers` without an answer."""
    if lost := [f"{k}={c}" for k, c in named.items() if k not in COLUMNS or c not in has]:
        raise ValueError(f"{lost[0]}: name one of {[*COLUMNS]}, and a column of {[*has]}")
    lower = {c.lower(): c for c in reversed(has)}
    found = {k: next((lower[c] for c in names if c in lower), None) for k, names in COLUMNS.items()}
    found |= {"context": [lower[c] for c in COLUMNS["context"] if c in lower], "grade": None}
    found |= dict.fromkeys(ANSWERS if {*ANSWERS} & {*named} else ()) | named
    found |= {"context": [named["context"]]} if "context" in named else {}
    matches = [*filter(None, map(OPTION.fullmatch, sorted(lower)))]
    series = [[lower[m[0]] for m in matches if m[1] == start[1]] for start in matches]
    listed = max((names for names in series if len(names) > 1), key=len, default=[])
    found["listed"] = [] if found["options"] else listed
    if not found["question"] and not found["messages"] and "chosen" in lower:
        found |= {"messages": lower["chosen"], "solution": None}  # of preferences, whole chats
    graded = "answer" not in named and (found["answer"] or "").lower() in GRADES
    if graded and (found["solution"] or found["messages"]) and not (found["options"] or listed):
        found |= {"grade": found["answer"], "answer": None}
    found["gold"] = next((found[k] for k in ANSWERS if found[k]), None)
    says = found["solution"] or found["gold"] or (found["options"] or "").lower() == "mc1_targets"
    if found["messages"]:
        if "question" not in named and ("messages" in named or not says):
            found["question"] = None  # a `prompt` beside chat turns, which have the answers
    elif not found["question"] or (answers and not says):
        role = "solution" if found["question"] else "question"
        free = [c for c in has if c not in (found["question"], *found["context"])]
        mend = f"name one of {free}, {role}=its_name"
        if len(has) < 2 or not free:
            mend = "it needs a question and an answer, as prompt/completion or messages"
        raise ValueError(f"no column for the {role}; it has {[*has]}: {mend}")
    alpaca = (found["question"] or "").lower() == "instruction"  # it has half of it in `input`
    return found | {"input": "input" if alpaca else None}


def example(row: Mapping, column: Mapping, base: int | None, domain: str, lost: Counter):
    """A row as an Example, with the `column`s of `roles` and the `base` of `base_of`; None where it
    can't be one, for a reason counted in `lost`. Raises ValueError for what can't be read."""
    if column["grade"] and str(row.get(column["grade"])).lower() in ("false", "0", "0.0"):
        lost["rows whose answer is marked as bad"] += 1
        return None
    told = [(row.get(c), _turns(row.get(c), lost)) for c in column["context"]]
    earlier = [(who, text, False) for _, turns in told for who, text, _ in turns or ()]
    before = [_text(cell, lost) for cell, turns in told if turns is None]
    if column["question"]:
        question = _said(row.get(column["question"]), lost)
        solution = _said(row.get(column["solution"]), lost, answer=True)
        if column["input"]:
            question = f"{question}\n{_said(row.get(column['input']), lost)}".strip()
    elif (turns := _turns(row.get(column["messages"]), lost)) is not None:
        question, solution = _asked_and_answered(turns)
    else:
        raise ValueError('the chat is no list of turns like {"role": "user", "content": "…"}')
    if not question:
        lost["rows without a question"] += 1
        return None
    question, _ = _asked_and_answered([*earlier, ("User", question, False)])
    question = "\n".join([*filter(None, before), question])
    answer = _said(row.get(column["gold"]), lost, answer=True)
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
    name = digest(said, 16)  # half of a character is a ValueError
    return Example(question, solution, answer, domain, name, options=options, instruction="")


def _text(cell, lost: Counter) -> str:
    """A cell as text: of a list of texts the first, of the parts of a message those of text."""
    if isinstance(cell, Mapping) and isinstance(cell.get("text"), list | str):  # SQuAD's answers
        cell = cell["text"]
    if isinstance(cell, list):
        if cell and all(isinstance(part, Mapping) and "type" in part for part in cell):
            lost["parts of messages that are no text"] += sum("text" not in part for part in cell)
            cell = "".join(str(part.get("text") or "") for part in cell)
        elif all(isinstance(text, str | int | float) for text in cell):
            lost["texts behind the first of a list"] += max(len(cell) - 1, 0)
            cell = cell[0] if cell else None
    if isinstance(cell, str | int | float | None):
        return "" if cell is None else str(cell).strip()
    raise ValueError(f"{str(cell)[:40]!r} is a {type(cell).__name__}: make it text")


def _said(cell, lost: Counter, answer: bool = False) -> str:
    """A cell as text; of chat turns all that leads to an answer, or the last answer."""
    turns = _turns(cell, lost)
    return _text(cell, lost) if turns is None else _asked_and_answered(turns)[answer]


def _is_turn(turn) -> bool:
    return isinstance(turn, Mapping) and bool({"role", "from"} & turn.keys())


def _turns(cell, lost: Counter) -> list[tuple[str, str, bool]] | None:
    """(who, text, whether it is learnt) of chat turns: a list, its JSON, pairs or "Human: …"."""
    if isinstance(cell, str) and re.match(r"\s*Human: ", cell):
        parts = re.split(r"(?:^|\n\n)\s*(Human|Assistant): ", cell)[1:]
        cell = [{"from": a, "value": b} for a, b in zip(parts[::2], parts[1::2], strict=True)]
    elif isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    cells = cell if isinstance(cell, list | tuple) else ()
    if all(isinstance(pair, list) and len(pair) == 2 for pair in cells):  # a history
        cells = chat(*chain(*cells))
    if not cells or not all(map(_is_turn, cells)):
        return None
    turns = []
    for turn in cells:  # where a file holds both kinds, each turn has the other's keys with null
        text = _text(turn.get("value") if turn.get("content") is None else turn["content"], lost)
        calls = json.dumps(turn["tool_calls"]) if turn.get("tool_calls") else ""
        thought = turn.get("reasoning_content") or turn.get("thinking")
        lost["thoughts beside answers"] += bool(thought)
        who = str(turn.get("role") or turn.get("from")).lower()
        learn = turn.get("weight") not in (0, 0.0) and turn.get("train") is not False
        if said := "\n".join(filter(None, [text, calls])):
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
    elif isinstance(cell, Mapping) and "text" in cell:  # ARC's
        cell, labels = cell["text"], cell.get("label") or LETTERS
    elif isinstance(cell, Mapping):
        cell, labels = list(cell.values()), list(cell)
    elif isinstance(cell, list) and cell and all(isinstance(x, Mapping) for x in cell):
        marks = [x.get("label", x.get("key", x.get("id"))) for x in cell]
        labels = LETTERS if None in marks else marks
        right = [i for i, x in enumerate(cell) if True in (x.get("correct"), x.get("is_correct"))]
        gold, cell = right or None, [x.get("text", x.get("content")) for x in cell]
    listed = isinstance(cell, list | tuple) and isinstance(labels, list | tuple | str)
    if not listed and cell not in (None, "", [], {}):
        raise ValueError(f'the options are not a list like ["one", "two"]: {str(cell)[:40]!r}')
    texts = list(cell or ())
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
        mark = (match[1] if match else answer.strip("()")).upper()
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
    found = []  # a number, how many options there are, and whether one has it for a text
    for row in rows.values():
        with suppress(ValueError):  # told with its row when it is read
            answer = _said(row.get(column["answer"]), Counter(), answer=True)
            labels, options, gold = _options(row, column, "", answer)
            if options and answer.isdecimal() and gold is None and answer not in labels:
                found.append((int(answer), len(options), answer in options))
    if all(text for *_, text in found) and (not found or any(n > size for n, size, _ in found)):
        return None
    usual = column["answer"].lower() in (*GRADES, "cop")  # from 0, wherever they are used
    one = len(found) > 9 and not usual and all(n for n, *_ in found)
    if one or any(n == size or text for n, size, text in found):
        said = f"the numbers in {column['answer']!r} can be read in two ways: name it answer_index"
        raise ValueError(f"{said} (from 0), answer_number (from 1) or answer_text")
    return 0


def read(source, *, domain, columns=None, answers=False, by=None, note=print) -> list[Example]:
    """At most LIMIT Examples, a seeded sample, each once, of a corpus, files (files.KINDS), a
    `datasets.Dataset`, or a list of (question, answer) pairs, dicts or chats. `columns` are named
    like {"question": "ask"}, else known by COLUMNS; `by` has the domain. Without an answer there is
    no `solution`, or with `answers` no Example. Raises ValueError that names the row."""
    where = name = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    rows, found, kept, total, rng, lost = {}, {}, {}, 0, random.Random(0), Counter()
    if name in corpora.TABLE:
        every = [replace(e, domain=domain) for e in corpora.load(name)]
        total, found = len(every), dict(enumerate(every[:LIMIT]))
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
                where, cell = f"{name}, row {n}", domain if by is None else row.get(by)
                own = "" if cell is None else str(cell)
                if e := example(row, column, base, own, lost):
                    at = own, e.question, e.options, answers and e.solution
                    lost["rows that are there twice"] += at in found
                    if at not in found or not found[at].solution:  # the first with an answer
                        found[at] = e
        except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
            raise ValueError(f"{where}: {str(error).splitlines()[0]}") from None
        used = {by, *chain(*(c if isinstance(c, list) else [c] for c in column.values()))}
        parts = ("question", "messages", "context", "options", "listed", "solution", "gold")
        said = "; ".join(f"{part}: {column[part]}" for part in parts if column[part])
        left = ", ".join(c for c in has if c not in used) or "none"
        note(f"{name}: {total} rows; {said}; not read: column {left}.")
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
    columns = {c: [row.get(c) for row in rows.values()] for c in has}
    gaps = [c for c, cells in columns.items() if {*map(type, cells)} == {float, type(None)}]
    whole = [c for c in gaps if all(cell is None or cell.is_integer() for cell in columns[c])]
    for row in rows.values():
        row |= {c: None if row.get(c) is None else int(row[c]) for c in whole}
    return rows


def read_domains(source, columns=None, note=print) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all domains), files, "file:column"."""
    domains, how = [], {"columns": columns, "note": note}
    for name in [source] if isinstance(source, str | Path) else source:
        own = source[name] if isinstance(source, Mapping) else None
        path, _, by = str(name).rpartition(":")
        if own is not None:
            examples = read(own, domain=str(name), **how)
        elif name in corpora.TABLE:
            examples = corpora.load(name)
        elif files.kind(path) and not Path(name).exists():
            examples = read(path, domain="", by=by, **how)
        else:
            examples = read(name, domain=Path(name).stem, **how)
        domains += by_domain(examples).items()
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
        worked = asked | read_domains(dict.fromkeys(filter(None, shown)))
    same, bare = {key(e) for e in training}, {key(replace(e, options=())) for e in training}

    def known(e: Example) -> bool:  # options tell apart two that both have some
        return key(e) in same or key(replace(e, options=())) in (same if e.options else bare)

    if left := {key(e) for e in chain(*asked.values(), *worked.values()) if known(e)}:
        note(f"{len(left)} questions of the domains are in the training set too and were left out.")
    asked = {d: [e for e in of if not known(e)] for d, of in asked.items()}
    shown = {d: worked.get(d, ()) for d in asked if worked}
    worked = {d: [e for e in of if e.solution and not known(e)] for d, of in shown.items()}
    if empty := [d for d in worked if not worked[d]]:
        raise ValueError(f"domain {empty[0]!r} has no worked examples: give some, or 'none'")
    return asked, worked


def drawn(examples: Sequence[Example], most: int, seed: int = 0) -> list[Example]:
    """At most so many of the examples, drawn by the seed."""
    return random.Random(seed).sample(list(examples), min(most, len(examples)))


def key(example: Example) -> str:
    """What tells a question from others, whatever its case and spacing, and its options."""
    return " ".join("\n".join((example.question, *example.options)).split()).casefold()
