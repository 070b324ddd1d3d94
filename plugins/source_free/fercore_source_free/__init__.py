"""Methods that adapt a trained model to unlabelled images, without the data that it was trained on."""
