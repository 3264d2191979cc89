"""Write a first config for a folder of images."""
