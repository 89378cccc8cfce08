"""The ALPS scheduler: who may run now on one host. Pure: readings in, decisions out, time is an argument.

``paper`` is the algorithm of "ALPS: An Application-Level Proportional-Share Scheduler", Figure 3; ``turns`` is the
default, event-driven one. Both implement ``model.Scheduler``. ``pauses`` turns their decisions into bounded pauses.
"""
