"""Evaluation by judges that training never sees: files -> judges -> metrics -> rows -> report."""
