"""What authors and the continuous integration use; no notebook imports it."""
