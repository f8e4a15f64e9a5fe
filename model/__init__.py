"""What is searched: the LARNN, the layers it is compared with, their data and their training."""
