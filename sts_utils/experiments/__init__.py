"""A noun a file: what one figure or table alone computes and keeps."""
