"""Small data sets, and settings of predict for the tiny model."""

TINY = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False}
SMALL = {**TINY, "n": 20, "shots": 2, "queries": 6}
ALONE = {**SMALL, "score": "sts_act"}  # for one domain: the default compares domains
HTML = "<script>alert(1)</script> & <b>"


def questions(word, count=16, answers=True):
    """Open questions whose answers hold HTML."""
    asked = [f"{word} {i}: how much is {i} and {i + 3}?" for i in range(count)]
    rows = [{"question": q, "answer": f"{2 * i + 3} {HTML}"} for i, q in enumerate(asked)]
    return rows if answers else [{"question": q} for q in asked]


def choices(word):
    """Multiple choice."""
    options = [[f"{word} {i}", f"{word} {i + 1}", f"{word} {i + 2}"] for i in range(16)]
    return [
        {"question": f"{word} {i}?", "choices": o, "answer": i % 3} for i, o in enumerate(options)
    ]
