"""Pictures for people: detections drawn, contact sheets of pictures and windows, plots of training and scores."""
