"""One module for each command; main.py names them and imports only the one that runs."""
