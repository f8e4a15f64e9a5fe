"""The commands of `larnn-search`, by what they are for. Only click is imported at the top of each."""
