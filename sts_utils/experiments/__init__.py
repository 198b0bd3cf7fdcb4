"""One file an experiment of the paper: what it computes, draws and claims."""
