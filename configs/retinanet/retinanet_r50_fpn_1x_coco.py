# RetinaNet, ResNet-50 + FPN, 1x: mmdet's model and schedule with the data and hooks of this repository.
# Paper      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017 (arXiv 1708.02002)
# Command    bash test/train_full_8p.sh --data_path=/data/coco --config=configs/retinanet/retinanet_r50_fpn_1x_coco.py
# Hardware   8 devices x 2 images, 4 GB each (mmdet on V100: 3.8 GB)
# Published  36.5 mAP after 12 epochs (mmdet)
# Measured   not measured here
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/coco_detection.py",
    "../_base_/runtime.py",
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
