"""Which of several models to take: ranking, the verdict, and the labels that settle it. Target labels have no part."""
