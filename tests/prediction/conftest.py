import pytest
from tiny_sets import SMALL, questions

import sts_utils


@pytest.fixture(scope="session")
def found():
    domains = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
    return sts_utils.predict(questions("train"), domains=domains, seeds=(0, 1), **SMALL)
