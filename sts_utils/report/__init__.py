"""Running the notebooks, and the page that shows a finished run."""
