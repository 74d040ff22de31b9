# FCOS R-50, 1x, no norm in the head. The config of the Ascend FCOS recipe.
#   bash test/train_full_8p.sh --data_path=/data/coco        (8 devices x 2 images)
# Published with these values: 36.2 mAP after 12 epochs, on 8 GPUs and on 8 NPUs (O1).
_base_ = [
    "../_base_/fcos_r50_caffe_fpn.py",
    "../_base_/coco_detection.py",
    "../_base_/schedule_1x.py",
    "../_base_/runtime.py",
]
model = dict(bbox_head=dict(norm_cfg=None))
