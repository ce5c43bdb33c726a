"""Reference answers, one module a day: real library code that later days import."""
