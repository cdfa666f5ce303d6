"""Reference pages, made from the code that they describe: each module turns one thing into Markdown."""
