"""Caffe: `.prototxt` and `.caffemodel` written without caffe, run by OpenCV."""
