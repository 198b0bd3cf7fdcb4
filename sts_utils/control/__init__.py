"""The positive control: can a score see what was trained on?"""
