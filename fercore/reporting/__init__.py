"""Reports: one self-contained HTML file on a run or a comparison."""
