"""The management API's views, a module for each resource: parse, one action or query, answer."""
