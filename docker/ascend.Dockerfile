# FCOS-Train on Ascend NPUs, on an image of CANN with Python 3.11 that fits the card and its driver:
#   docker build -f docker/ascend.Dockerfile --build-arg BASE=ascendai/cann:TAG -t fcos-train:ascend .
#   docker run --rm -it --ipc=host --device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm \
#       --device /dev/hisi_hdc -v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro -v "$PWD:/workspace" \
#       fcos-train:ascend train CONFIG --data-path DIR --device npu
ARG BASE
FROM ${BASE}
ARG PIP_EXTRA_INDEX_URL
# Where CANN is in the image; its set_env.sh is sourced before every command.
ENV ASCEND_TOOLKIT_HOME=/usr/local/Ascend/ascend-toolkit/latest
WORKDIR /opt/fcos-train
COPY pyproject.toml setup.py README.md LICENSE ./
COPY requirements requirements
COPY configs configs
COPY mmcv_overrides mmcv_overrides
COPY fcos_train fcos_train
COPY docker/ascend-entrypoint.sh /usr/local/bin/ascend-entrypoint
RUN python3 -m pip install --no-cache-dir -c requirements/tested.txt '.[npu,export]' \
    && TORCH_DEVICE_BACKEND_AUTOLOAD=0 fcos-train doctor --fix
ENV TORCH_HOME=/workspace/.cache/torch
WORKDIR /workspace
ENTRYPOINT ["bash", "/usr/local/bin/ascend-entrypoint"]
CMD ["--help"]
