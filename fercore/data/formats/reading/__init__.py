"""What formats share: tables, lists, columns, codes of labels, and what a scan finds."""
