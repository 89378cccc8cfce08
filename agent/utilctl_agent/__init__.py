"""The per-host agent: guard, scheduler loop and link."""
