"""The journal: the only truth about groups, points, standbys and runs, behind one write door."""
