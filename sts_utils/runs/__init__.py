"""What a run computes, each once, stored."""
