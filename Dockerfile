# The CUDA machine of docs/scale.md; the host has driver 580 or newer and NVIDIA's container toolkit:
#   docker build -t crystal-ball .
#   docker run --gpus all --shm-size 16g -v $HOME/.cache/huggingface:/hub -v $PWD/out:/out crystal-ball \
#       make reproduce PROFILE=llama3-8b
# torch's wheels bring CUDA's libraries. Written where no Docker engine ran: not built yet.
FROM python:3.11-bookworm
WORKDIR /crystal-ball
COPY . .
ENV HF_HOME=/hub STS_OUT=/out
RUN make setup && make vllm VLLM=vllm
CMD ["make", "check", "PROFILE=paper"]
