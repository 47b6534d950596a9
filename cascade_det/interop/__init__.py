"""What other packages made, read without running any of it: public weights of MTCNN."""
