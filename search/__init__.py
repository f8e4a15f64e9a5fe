"""The search: spaces, suggestions, the LARNN objective, and the command line."""
