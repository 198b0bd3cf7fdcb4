"""What one experiment of the paper alone computes; its notebook shows the rest."""
