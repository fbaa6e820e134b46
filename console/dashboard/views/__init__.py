"""The console's views, a module for each page."""
