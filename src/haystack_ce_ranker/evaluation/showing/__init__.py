"""What was found, shown: tables for the terminal, a page, pictures."""
