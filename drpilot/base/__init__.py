"""The ground floor: clock, ids, units, errors, retry, log, strict documents. Imports nothing of drpilot."""
