"""Self-contained HTML pages: text, tables, charts and pictures in one file that loads nothing.

``page`` puts them together, ``charts`` draws, ``style`` says how it looks. matplotlib is imported with ``charts``.
"""
