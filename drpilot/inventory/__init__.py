"""What there is: sites, groups and their members, read from files and found on clouds."""
