"""What people read: report.json, index.html and its plots."""
