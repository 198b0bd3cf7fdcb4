"""Supervised fine-tuning, GRPO, maps on the residual stream, SAEs."""
