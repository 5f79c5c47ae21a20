# The trainer with CUDA. NOT BUILT WHERE IT WAS WRITTEN, which has no docker and no GPU: tests/test_dockerfile.py checks
# that what it copies is there and that its versions are the project's, no more. The driver must be one for CUDA 13.
#
#   docker build -t prealign .                                  # half an hour and more: flash-attn is compiled
#   docker build -t prealign --build-arg FLASH_ATTN= .          # without it: torch's attention
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" --user "$(id -u):$(id -g)" prealign \
#       deepspeed --module prealign.launchers.pretrain --config enclone_demo
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG FLASH_ATTN=2.8.3.post2
ARG FLASH_ATTN_ARCHS=80;90
ARG MAX_JOBS=4

# a compiler stays: Triton, and DeepSpeed where an optimizer is offloaded, compile when they run; pdsh and ssh are what
# deepspeed starts other nodes by
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential git ninja-build openssh-client pdsh python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/prealign

ENV PATH=/opt/prealign/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DS_BUILD_OPS=0

RUN pip install "torch==${TORCH}" --index-url "${TORCH_INDEX}"

COPY launchers/requirements.txt /opt/build/requirements.txt
RUN pip install -r /opt/build/requirements.txt

RUN if [ -n "${FLASH_ATTN}" ]; then \
        pip install ninja packaging psutil "setuptools>=77" wheel \
        && MAX_JOBS="${MAX_JOBS}" FLASH_ATTN_CUDA_ARCHS="${FLASH_ATTN_ARCHS}" \
            pip install --no-build-isolation "flash-attn==${FLASH_ATTN}"; \
    fi

WORKDIR /opt/build
COPY pyproject.toml setup.py README.md LICENSE ./
COPY prealign prealign
COPY kernels kernels
COPY launchers launchers
COPY configs configs
RUN pip install --no-deps . && rm -rf /opt/build/*

# caches of Triton and DeepSpeed go to a place that any user may write, as --user may name one without a home
ENV HOME=/home/prealign
RUN useradd --home-dir /home/prealign --create-home prealign && chmod 1777 /home/prealign && mkdir /work && chown prealign /work
USER prealign
WORKDIR /work
CMD ["prealign-train", "--help"]
