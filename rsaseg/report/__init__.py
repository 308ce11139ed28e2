"""What people read: evaluation tables, lesion tables and reports."""
