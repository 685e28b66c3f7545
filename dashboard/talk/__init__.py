"""Teaching: presenting, the tour, lessons, the method in seven steps, and the way back to the beginning."""
