"""What guards do to healthy runs, and to the same runs with faults put in."""
