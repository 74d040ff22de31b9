# FCOS-Train on CPUs, from the repository root:
#   docker build -f docker/cpu.Dockerfile -t fcos-train:cpu .
#   docker run --rm -it --ipc=host -v "$PWD:/workspace" fcos-train:cpu train fcos/fcos_r18_fpn_small --data-path DIR
# Most package indexes have only the build of torch with CUDA, which is several gigabytes larger. To get the CPU build:
#   --build-arg PIP_EXTRA_INDEX_URL=... (the CPU index that pytorch.org names) --build-arg TORCH=torch==2.13.0+cpu
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/fcos-train
COPY pyproject.toml setup.py README.md LICENSE ./
COPY requirements requirements
COPY configs configs
COPY mmcv_overrides mmcv_overrides
COPY fcos_train fcos_train
RUN pip install --no-cache-dir "${TORCH}" \
    && pip install --no-cache-dir -c requirements/tested.txt '.[export]' \
    && fcos-train doctor --fix
ENV TORCH_HOME=/workspace/.cache/torch
WORKDIR /workspace
ENTRYPOINT ["fcos-train"]
CMD ["--help"]
