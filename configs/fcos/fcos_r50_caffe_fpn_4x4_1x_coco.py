# FCOS, ResNet-50 (Caffe weights) + FPN, 1x, no normalisation in the head. The model of the Ascend FCOS recipe.
# Paper      Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019 (arXiv 1904.01355)
# Command    bash test/train_full_8p.sh --data_path=/data/coco
# Hardware   8 devices x 2 images, 4 GB each
# Published  36.2 mAP after 12 epochs, on 8 GPUs at 102 images/s and on 8 NPUs (O1) at 19.4 images/s (the Ascend recipe)
# Measured   not measured here
_base_ = [
    "../_base_/fcos_r50_caffe_fpn.py",
    "../_base_/coco_detection.py",
    "../_base_/schedule_1x.py",
    "../_base_/runtime.py",
]
model = dict(bbox_head=dict(norm_cfg=None))
