"""Models of tables: mixed columns, gaps, a factor analysis that networks bend."""
