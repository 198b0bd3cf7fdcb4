"""What a run would cost, whether this machine can do it, and what it needs from the hub."""
