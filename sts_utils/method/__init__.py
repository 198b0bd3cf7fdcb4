"""The paper: pairs of prompts -> rows of features -> sums -> shifted dims -> scores of domains."""
