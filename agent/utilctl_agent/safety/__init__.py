"""Nothing stays paused: the journal of pauses in force, and the guard that undoes them when the loop cannot."""
