"""Chaos: kill, stop and cut off the parts of utilctl at random instants, and watch from outside who stays paused.

``make chaos`` runs it (docs/safety.md says what is promised). The judgement uses nothing of the product: an observer
process reads what the kernel says.
"""
