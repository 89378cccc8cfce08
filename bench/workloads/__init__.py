"""Programs that the experiments run: plain scripts that import nothing of this project."""
