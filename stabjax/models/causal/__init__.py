"""Graph learning from tables of numbers."""
