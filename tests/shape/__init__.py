"""What keeps the shape of the project true without anybody watching: layers, tables, names, generated files."""
