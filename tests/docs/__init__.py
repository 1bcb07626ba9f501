"""The pages of docs/ that people follow are carried out here."""
