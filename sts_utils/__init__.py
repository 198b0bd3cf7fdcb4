"""Predict, before fine-tuning, how much each domain's performance will move."""
