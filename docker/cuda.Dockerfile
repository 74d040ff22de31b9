# FCOS-Train on NVIDIA GPUs; the host needs the driver and the NVIDIA container toolkit. torch brings CUDA itself.
#   docker build -f docker/cuda.Dockerfile -t fcos-train:cuda .
#   docker run --rm -it --gpus all --ipc=host -v "$PWD:/workspace" fcos-train:cuda train CONFIG --data-path DIR
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL
# Triton, which compiles kernels at run time, needs a C compiler.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/fcos-train
COPY pyproject.toml setup.py README.md LICENSE ./
COPY requirements requirements
COPY configs configs
COPY mmcv_overrides mmcv_overrides
COPY fcos_train fcos_train
RUN pip install --no-cache-dir "${TORCH}" \
    && pip install --no-cache-dir -c requirements/tested.txt '.[export]' \
    && fcos-train doctor --fix
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video TORCH_HOME=/workspace/.cache/torch
WORKDIR /workspace
ENTRYPOINT ["fcos-train"]
CMD ["--help"]
