"""What one notebook alone computes and keeps."""
