"""What a runbook step can do. Each module holds the actions of one noun; `catalogue.py` names them all."""
