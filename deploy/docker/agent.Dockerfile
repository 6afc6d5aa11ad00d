# syntax=docker/dockerfile:1
# The agent of a device. From the root of the repository:
#   docker build --file deploy/docker/agent.Dockerfile --tag fedhw-agent .
# Its home is a volume; apps that share the volume call its socket. To enrol, once:
#   docker run --rm --volume HOME:/var/lib/fedhw --volume ./NAME.enroll:/invitation:ro \
#     fedhw-agent --enroll /invitation
FROM python:3.11-slim

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# torch has a layer of its own, which a change of fedhw leaves alone; and it is the CPU's, from the
# index that holds no other, since the registry's carries CUDA.
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /constraints.txt --index-url https://download.pytorch.org/whl/cpu torch

RUN --mount=type=bind,target=/source,rw \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /source/constraints.txt '/source[client]'

RUN useradd --uid 10001 --create-home --home-dir /var/lib/fedhw fedhw \
    && chmod 700 /var/lib/fedhw
USER 10001:10001
ENV HOME=/var/lib/fedhw FEDHW_HOME=/var/lib/fedhw
WORKDIR /var/lib/fedhw
VOLUME /var/lib/fedhw

HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD \
    ["python", "-c", "from fedhw_client import connect; connect().status()"]
ENTRYPOINT ["fedhw", "client"]
