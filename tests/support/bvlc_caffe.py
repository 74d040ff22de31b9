"""Run networks with BVLC caffe: ``python bvlc_caffe.py FOLDER``, in an environment that has caffe (Python 3.6 to 3.9).

Each ``NAME.prototxt`` of the folder is run on ``NAME.npy``; all its blobs are written to ``NAME.npz``.
"""

import os
import sys

os.environ.setdefault("GLOG_minloglevel", "2")

import caffe
import numpy as np


def run(stem):
    net = caffe.Net(stem + ".prototxt", caffe.TEST, weights=stem + ".caffemodel")
    net.blobs[net.inputs[0]].data[...] = np.load(stem + ".npy")
    net.forward()
    np.savez(stem + ".npz", **{name.replace("/", "|"): blob.data for name, blob in net.blobs.items()})


if __name__ == "__main__":
    caffe.set_mode_cpu()
    for file in sorted(os.listdir(sys.argv[1])):
        if file.endswith(".prototxt"):
            run(os.path.join(sys.argv[1], file[: -len(".prototxt")]))
