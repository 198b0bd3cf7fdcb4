"""Small data sets, and settings of predict for the tiny model."""

TINY = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False}
SMALL = {**TINY, "n": 20, "shots": 2, "queries": 6}
ALONE = {**SMALL, "score": "sts_act"}  # for one domain: the default compares domains
HTML = "<script>alert(1)</script> & <b>"


def questions(word, count=16, answers=True):
    rows = [
        {"question": f"{word} {i}: how much is {i} and {i + 3}?", "answer": f"{2 * i + 3} {HTML}"}
        for i in range(count)
    ]
    return rows if answers else [{"question": row["question"]} for row in rows]
