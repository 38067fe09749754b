"""What happened: operations, journals, histories, and generators (histories that have not happened yet)."""
