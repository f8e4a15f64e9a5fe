"""The commands of `larnn-search`, by what they are for; each imports what it needs inside."""
