"""The link: the agent's process that talks to the controller, finds processes and reports. Never in the loop's way."""
