"""Results for people: numbers, figures and one self-contained HTML page."""
